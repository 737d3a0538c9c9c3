//! The container configuration that comes with berth. What it decides is in [`logic`]; this is its border.

use berth_guest::settings::{Flag, Integer, Key, Table, Text, Texts, flag, integer, text, texts};
use berth_guest::{
    ContainerConfig, Context, Edit, KernelRequest, Node, Plan, Refusal, Setting, Share, configuring, policy,
    types,
};

mod logic;

const ENV: Table<Text> =
    text("env", "Variables to add to every kernel that does not set them itself.").table();
const MOUNTS: Key<Texts> =
    texts(logic::MOUNTS, "Folders to add to every kernel, `SRC:DST` or `SRC:DST:ro`.").default(&[]);
const PIDS_LIMIT: Key<Integer> =
    integer(logic::PIDS_LIMIT, "Most processes in a kernel.").default(logic::PIDS_LIMIT_DEFAULT);
const SHM_SIZE: Key<Integer> =
    integer(logic::SHM_SIZE, "Bytes of /dev/shm; 0 leaves it as it is.").default(0);
const OOM_SCORE: Key<Integer> = integer(
    logic::OOM_SCORE,
    "How readily a kernel is killed when the node runs out of memory, -1000 to 1000.",
)
.default(logic::OOM_SCORE_DEFAULT);
const THREAD_VARIABLES: Key<Flag> =
    flag(logic::THREAD_VARIABLES, "Whether OMP_NUM_THREADS and the like tell the number of cores.")
        .default(true);

policy! {
    world: container-config,
    summary: "Adds variables, mounts and limits of the operator",
    settings: [ENV, MOUNTS, PIDS_LIMIT, SHM_SIZE, OOM_SCORE, THREAD_VARIABLES],
    needs: &logic::NEEDS,
    check: problems,
}

/// The agent would refuse what these make.
fn problems(settings: &[Setting]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut complain = |key: &str, problem: Option<&str>| {
        problems.extend(problem.map(|problem| [key, ": ", problem].concat()));
    };
    for (name, value) in ENV.iter(settings) {
        let problem = logic::variable_problem(name).or_else(|| logic::value_problem(value));
        complain(&[logic::ENV, name].concat(), problem);
    }
    for text in MOUNTS.get(settings) {
        if let Err(problem) = logic::parse_mount(text) {
            complain(logic::MOUNTS, Some(&["`", text, "`: ", problem].concat()));
        }
    }
    let size = |number: i64, problem: fn(u64) -> Option<&'static str>| {
        u64::try_from(number).map_or(Some("must not be below 0"), problem)
    };
    complain(logic::PIDS_LIMIT, size(PIDS_LIMIT.get(settings), logic::pids_limit_problem));
    let shm = SHM_SIZE.get(settings);
    complain(logic::SHM_SIZE, if shm == 0 { None } else { size(shm, logic::size_problem) });
    let score = i32::try_from(OOM_SCORE.get(settings));
    complain(logic::OOM_SCORE, score.map_or(Some("is out of range"), logic::oom_score_problem));
    problems
}

impl ContainerConfig for Policy {
    fn adjust(
        ctx: &Context,
        _: &KernelRequest,
        node: &Node,
        shares: &[Share],
        plan: &Plan,
    ) -> Result<Vec<Edit>, Refusal> {
        Ok(logic::adjust(ctx, node, shares, plan))
    }
}
