//! Whether a kernel's devices lie close together or far apart: as its image says by a label, else as the operator
//! says for its kind of session. Which devices that are in the end is the built-in's affair.

use berth_guest::settings::{Flag, Key, Table, Text, flag, text};
use berth_guest::{
    Choice, Context, KernelRequest, Node, Placement, Refusal, Scheduler, SessionKind, Setting, Strategy,
    policy,
};

/// What an image may say, e.g. `LABEL ai.berth.placement=spread`.
const LABEL: &str = "ai.berth.placement";
const WORDS: &[&str] = &["pack", "spread"];

const DEFAULT: Key<Text> =
    text("default", "How kernels are placed of which nothing else is said: `pack` or `spread`.")
        .default("pack")
        .one_of(WORDS);
const KIND: Table<Text> =
    text("kind", "The same by kind of session: `kind.batch = \"pack\"`.").one_of(WORDS).table();
const LABELS: Key<Flag> = flag("labels", "Whether an image may say it by its label.").default(true);

policy! {
    world: scheduler,
    summary: "Packs or spreads a kernel's devices as its image or the kind of session says",
    settings: [DEFAULT, KIND, LABELS],
    image_labels: &[LABEL],
    check: only_kinds,
}

fn only_kinds(settings: &[Setting]) -> Vec<String> {
    let known = |name: &str| SessionKind::ALL.iter().any(|kind| kind.name() == name);
    let unknown = KIND.iter(settings).filter(|(name, _)| !known(name));
    unknown.map(|(name, _)| ["kind.", name, ": there is no such kind of session"].concat()).collect()
}

impl Scheduler for Policy {
    fn place(ctx: &Context, request: &KernelRequest, _: &Node, _: &Choice) -> Result<Placement, Refusal> {
        let settings = &ctx.settings;
        let label = request.image_label(LABEL).filter(|_| LABELS.get(settings));
        let of_kind = || KIND.get(settings, request.session_kind.name());
        let (word, why) = match (label, of_kind()) {
            (Some(label), _) => (label, "the image asks for it"),
            (None, Some(word)) => (word, "for this kind of session"),
            (None, None) => (DEFAULT.get(settings), "by default"),
        };
        let strategy = match word {
            "pack" => Strategy::Pack,
            "spread" => Strategy::Spread,
            other => {
                let message = ["the image's label ", LABEL, " is `", other, "`: it must be pack or spread"];
                return Err(Refusal::new("bad-placement-label", message.concat()));
            }
        };
        Ok(Placement::from(strategy).noted(&[word, ": ", why].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_guest::testing::{Machine, context, settings};

    fn placed(
        given: &[(&str, berth_guest::SettingValue)],
        label: Option<&str>,
    ) -> Result<Placement, Refusal> {
        let machine = Machine::new().cores(8).gpus(4).numa(2);
        let mut request = machine.request(&[("cuda.device", 2_000_000)]);
        request.session_kind = SessionKind::Batch;
        request.image_labels = label.map(|label| (LABEL.to_owned(), label.to_owned())).into_iter().collect();
        Policy::place(&context::<Policy>(given), &request, &machine.node(), &machine.choice(&request))
    }

    #[test]
    fn the_image_goes_before_the_kind_and_the_kind_before_the_default() {
        let given = [("default", "spread".into()), ("kind.batch", "pack".into())];
        assert_eq!(placed(&given[..1], None).unwrap().rest, Strategy::Spread);
        assert_eq!(placed(&given, None).unwrap().rest, Strategy::Pack);
        assert_eq!(placed(&given, Some("spread")).unwrap().rest, Strategy::Spread);
        let unheard = placed(&[("labels", false.into())], Some("spread")).unwrap();
        assert_eq!(unheard, Placement::from(Strategy::Pack).noted("pack: by default"));
    }

    #[test]
    fn what_is_misspelt_is_named() {
        let refusal = placed(&[], Some("scatter")).unwrap_err();
        assert!(!refusal.retry_later && refusal.message.contains("`scatter`"), "{refusal:?}");
        let given = [("kind.bacth", "pack".into()), ("default", "tight".into())];
        assert_eq!(
            settings::<Policy>(&given).unwrap_err(),
            ["default: must be one of pack, spread", "kind.bacth: there is no such kind of session"]
        );
    }
}
