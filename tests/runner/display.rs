//! What code shows beside what it prints: its last value, media, figures.

use std::fs;
use std::process::{Command, Stdio};

use berth_link::MESSAGE_MAX;

use crate::peer::{Agent, Kernel, Run, listening, wait_until};
use crate::python::no_python;

/// Everything until the run ends, in order; pieces of one stream in a row are one.
fn in_order(agent: &Agent, source: &str) -> Vec<(String, String)> {
    agent.send("code", source);
    let mut seen: Vec<(String, String)> = Vec::new();
    loop {
        let (kind, payload) = agent.receive();
        let text = String::from_utf8_lossy(&payload).into_owned();
        match seen.last_mut() {
            Some((last, before)) if *last == kind && kind.starts_with("std") => before.push_str(&text),
            _ => seen.push((kind.clone(), text)),
        }
        if kind == "finished" {
            return seen;
        }
    }
}

#[track_caller]
fn check(agent: &Agent, source: &str, expected: &[(&str, &str)]) {
    let seen = in_order(agent, source);
    let seen: Vec<(&str, &str)> = seen.iter().map(|(kind, text)| (kind.as_str(), text.as_str())).collect();
    let end = [("finished", "{\"exitCode\": 0}")];
    assert_eq!(seen, [expected, &end].concat());
}

#[test]
fn the_last_value_is_shown_as_notebooks_do() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    let check = |source: &str, stdout: &str| agent.code(source).check(stdout, "", 0);
    check("1 + 1", "2\n");
    check("_ * 21", "42\n");
    check("x = 'a'\nx", "'a'\n");
    check("None", "");
    check("_", "'a'\n");
    check("5;", "");
    check("5 ;  # nothing", "");
    check("5  # ;", "5\n");
    check("x = ';'; x", "';'\n");
    check("for i in range(3): i", "");
    check("print('p'); 3", "p\n3\n");
    check("", "");
    check("# nothing", "");
    check("'\\udc80'", "'\\udc80'\n");
    check("import sys\nown = sys.displayhook\nsys.displayhook = lambda v: print('mine', v)\n7", "mine 7\n");
    check("sys.displayhook = own\n7", "7\n");
    // A mistake in the last expression is found before anything runs.
    let wrong = agent.code("print('no')\n(yield)");
    assert_eq!((wrong.exit_code, wrong.out().as_str()), (Some(1), ""));
    let failed = agent.code("def f():\n    return 1 / 0\nf()");
    assert_eq!(failed.exit_code, Some(1));
    let text = failed.err();
    assert!(text.contains("line 3, in <module>\n    f()\n") && !text.contains("<berth>"), "{text}");
}

#[test]
fn rich_values_are_media_in_the_order_of_what_is_printed() {
    if no_python() {
        return;
    }
    let (_kernel, agent) = Kernel::start();
    let classes = "\
class Html:
    def _repr_html_(self): return '<b>é</b>'
class Png:
    def _repr_png_(self): return b'\\x89PNG', {'width': 1}
    def _repr_html_(self): return 'worse'
class Svg:
    def _repr_svg_(self): return '<svg>é</svg>'
class Bundle:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {'text/plain': 'plain', 'image/jpeg': 'aGk=\\n'}, {}
class Plain:
    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 'plain', 'text/markdown': '*'}
class Nothing:
    def _repr_html_(self): return None
    def _repr_png_(self): raise NotImplementedError
    def __repr__(self): return 'nothing'
class Broken:
    def _repr_html_(self): raise ValueError('no html')
    def __repr__(self): return 'broken'
class Everything:
    def __getattr__(self, name): return lambda *a, **o: 'mocked'
    def __repr__(self): return 'everything'
";
    agent.code(classes).check("", "", 0);
    let png = "{\"type\": \"image/png\", \"data\": \"data:image/png;base64,iVBORw==\"}";
    let svg = "{\"type\": \"image/svg+xml\", \"data\": \"<svg>é</svg>\"}";
    let jpeg = "{\"type\": \"image/jpeg\", \"data\": \"data:image/jpeg;base64,aGk=\"}";
    check(&agent, "Html()", &[("html", "<b>é</b>")]);
    check(
        &agent,
        "print('a')\ndisplay(Png(), Svg())\nprint('b', end='')\ndisplay(Html())\nprint('c')\nBundle()",
        &[
            ("stdout", "a\n"),
            ("media", png),
            ("media", svg),
            ("stdout", "b"),
            ("html", "<b>é</b>"),
            ("stdout", "c\n"),
            ("media", jpeg),
        ],
    );
    let raw =
        "display({'text/html': '<i>', 'text/plain': 'i'}, {'text/plain': 't'}, raw=True)\ndisplay('s', None)";
    check(&agent, raw, &[("html", "<i>"), ("stdout", "t\n's'\nNone\n")]);
    check(&agent, "Plain()", &[("stdout", "plain\n")]);
    check(&agent, "Nothing()", &[("stdout", "nothing\n")]);
    check(&agent, "Everything()", &[("stdout", "everything\n")]);
    check(&agent, "Html", &[("stdout", "<class '__main__.Html'>\n")]);
    check(&agent, "Html();", &[]);
    let broken = agent.code("Broken()");
    assert_eq!((broken.out().as_str(), broken.exit_code), ("broken\n", Some(0)));
    let text = broken.err();
    assert!(text.ends_with("ValueError: no html\n") && !text.contains("<berth>"), "{text}");
    // A forked child has no part in the conversation.
    let forked = "import os\nif os.fork() == 0:\n    display(Plain(), Html())\n    os._exit(0)\nos.wait();";
    assert!(agent.code(forked).out().starts_with("plain\n<__main__.Html object"));
}

#[test]
fn what_is_too_large_to_be_shown_becomes_a_file_and_the_link_lives_on() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    fs::write(kernel.work("display-1.html"), "the user's").unwrap();
    let large = format!("class L:\n    def _repr_html_(self): return 'x' * {}\n", MESSAGE_MAX + 1);
    agent.code(&large).check("", "", 0);
    let path = fs::canonicalize(kernel.work("")).unwrap().join("display-2.html");
    let said = format!(
        "berth-runner: text/html of 1.0 MB is too large to be shown, so it was written to {}\n",
        path.display()
    );
    check(&agent, "L()", &[("stderr", &said)]);
    assert_eq!(fs::metadata(&path).unwrap().len(), MESSAGE_MAX as u64 + 1);
    assert_eq!(fs::read_to_string(kernel.work("display-1.html")).unwrap(), "the user's");
    // Exactly as much as fits.
    let fits = format!("display({{'text/html': 'y' * {MESSAGE_MAX}}}, raw=True)");
    check(&agent, &fits, &[("html", &"y".repeat(MESSAGE_MAX))]);
    let lost = "import os\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nL()";
    let lost = agent.code(lost);
    assert!(
        lost.err().contains("too large to be shown, and could not be written to a file"),
        "{}",
        lost.err()
    );
    assert_eq!(agent.status().dropped_bytes, 0);
}

#[test]
fn an_agent_that_connects_by_tcp_gets_large_media_whole() {
    if no_python() {
        return;
    }
    let (_kernel, connect) = listening();
    let agent = connect();
    let size = 3 * MESSAGE_MAX;
    agent.send("code", format!("display({{'text/html': 'x' * {size}}}, raw=True)"));
    let (kind, payload) = agent.receive();
    assert_eq!((kind.as_str(), payload.len()), ("html", size));
    agent.run().check("", "", 0);
}

#[test]
fn an_interrupt_ends_a_task_that_shows_without_end() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    let interrupted = |before: Vec<(String, Vec<u8>)>, size: usize| {
        agent.send("interrupt", "");
        let (mut shown, mut rest) = (0, Run::default());
        let mut before = before.into_iter();
        while rest.exit_code.is_none() {
            let (kind, payload) = before.next().unwrap_or_else(|| agent.receive());
            if kind == "html" {
                // Each whole, each once, in order.
                assert!(payload.starts_with(format!("{shown} ").as_bytes()) && payload.len() == size);
                shown += 1;
                assert!(shown < 100_000, "it goes on");
            } else {
                rest.take(&kind, payload);
            }
        }
        let text = rest.err();
        assert!(text.ends_with("KeyboardInterrupt\n") && !text.contains("<berth>"), "{text}");
        assert_eq!((rest.exit_code, rest.others), (Some(1), Vec::new()));
        agent.code("print('alive')\ndisplay('next')").check("alive\n'next'\n", "", 0);
    };
    let endless = |size: usize| {
        format!(
            "import itertools\nopen('begun', 'w')\n\
             for i in itertools.count(): display({{'text/html': ('%d ' % i).ljust({size})}}, raw=True)"
        )
    };
    // At many places of what showing is made of.
    for count in 0..40 {
        agent.send("code", endless(1000));
        let seen = (0..count).map(|_| agent.receive()).collect();
        interrupted(seen, 1000);
    }
    // While nobody reads, so that it waits for room.
    for size in [1000, MESSAGE_MAX] {
        let _old = fs::remove_file(kernel.work("begun"));
        agent.send("code", endless(size));
        wait_until("it shows", || kernel.work("begun").exists());
        interrupted(Vec::new(), size);
    }
}

#[test]
fn media_that_nobody_reads_make_the_task_wait_and_none_is_lost() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    let source = "\
for i in range(200):
    display({'text/html': '%03d' % i + 'x' * 100000}, raw=True)
    print(i)
open('done', 'w');";
    agent.send("code", source);
    wait_until("it runs", || agent.status().running.is_some());
    drop(agent);
    let agent = kernel.agent();
    assert!(!kernel.work("done").exists(), "20 MB are more than may wait");
    let (mut items, mut printed) = (0, String::new());
    loop {
        let (kind, payload) = agent.receive();
        let text = String::from_utf8(payload).unwrap();
        match kind.as_str() {
            // The first ones may have been on their way to the agent that went.
            "html" => {
                let number: usize = text[..3].parse().unwrap();
                assert!(number >= items, "{number} comes after {items}");
                items = number + 1;
            }
            "stdout" => printed.push_str(&text),
            _ => break,
        }
    }
    assert_eq!(items, 200);
    assert!(printed.ends_with("198\n199\n"));
    assert!(kernel.work("done").exists());
}

/// As much of matplotlib as figures need: a figure is its text and a size by its dpi.
const FAKE: [(&str, &str); 3] = [
    ("__init__.py", "import os\ndef get_backend():\n    return os.environ['MPLBACKEND']\n"),
    (
        "figure.py",
        "class Figure:\n    dpi = 100.0\n    def __init__(self, text, size=4): self.text, self.size = text, size\n    \
         def savefig(self, file, format, dpi, bbox_inches):\n        \
         if self.text == 'bad': raise ValueError('cannot be drawn')\n        \
         dpi = self.dpi if dpi == 'figure' else dpi\n        \
         file.write(self.text.encode().ljust(int(self.size * (dpi / 100) ** 2), b' '))\n    \
         def __repr__(self): return 'Figure(%s)' % self.text\n",
    ),
    (
        "pyplot.py",
        "from matplotlib.figure import Figure\nfigures = {}\ndef figure(number): return figures[number]\n\
         def get_fignums(): return sorted(figures)\ndef close(which): figures.clear()\n\
         def show(): print('shown by the backend')\n\
         def make(text, size=4):\n    made = figures[len(figures)] = Figure(text, size)\n    return made\n",
    ),
];

fn figure(text: &str) -> String {
    use std::fmt::Write as _;
    // Of texts of three bytes, which need no padding.
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut base64 = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for at in (0..4).rev() {
            base64.push(alphabet[(bits >> (6 * at)) as usize & 63]);
        }
    }
    let mut payload = String::new();
    write!(payload, "{{\"type\": \"image/png\", \"data\": \"data:image/png;base64,{base64}\"}}").unwrap();
    payload
}

#[test]
fn figures_are_shown_once_and_closed() {
    if no_python() {
        return;
    }
    let (kernel, agent) = Kernel::start();
    fs::create_dir(kernel.work("matplotlib")).unwrap();
    for (name, source) in FAKE {
        fs::write(kernel.work("matplotlib").join(name), source).unwrap();
    }
    let (one, two, six) = (figure("one   "), figure("two   "), figure("six   "));
    // In the very code that imports it, and at the end of a task.
    let source = "import matplotlib.pyplot as plt\nprint('a')\nplt.make('one', 6)\nplt.show()\nprint('b')\nplt.make('two', 6);";
    check(&agent, source, &[("stdout", "a\n"), ("media", &one), ("stdout", "b\n"), ("media", &two)]);
    check(&agent, "plt.get_fignums()", &[("stdout", "[]\n")]);
    // A value that is a figure is not shown again, unless it changes.
    check(&agent, "plt.make('one', 6)", &[("media", &one)]);
    check(&agent, "f = plt.make('one', 6); display(f); f.text = 'two'", &[("media", &one), ("media", &two)]);
    // Also of a task that fails.
    let seen = in_order(&agent, "plt.make('six', 6); 1 / 0");
    assert!(seen[0].1.ends_with("ZeroDivisionError: division by zero\n"), "{seen:?}");
    assert_eq!(seen[1], ("media".into(), six));
    assert_eq!(seen[2].1, "{\"exitCode\": 1}");
    let seen = in_order(&agent, "plt.make('bad');");
    assert!(
        seen[0].1.ends_with("ValueError: cannot be drawn\n") && !seen[0].1.contains("<berth>"),
        "{seen:?}"
    );
    assert_eq!(seen[1].1, "{\"exitCode\": 1}");
    check(&agent, "plt.get_fignums()", &[("stdout", "[]\n")]);
    // One that is too large is shown smaller.
    let seen = in_order(&agent, "plt.make('large', 2000000);");
    let said = "berth-runner: a figure of 2.0 MB is too large to be shown, so it is shown with 59 dpi instead of 100; \
                savefig() writes the whole one\n";
    assert_eq!(seen[0], ("stderr".into(), said.into()));
    assert!(seen[1].0 == "media" && seen[1].1.len() > MESSAGE_MAX / 2, "{}", seen[1].1.len());
    // Another backend shows its own.
    check(
        &agent,
        "import os; os.environ['MPLBACKEND'] = 'other'; plt.make('one'); plt.show();",
        &[("stdout", "shown by the backend\n")],
    );
}

#[test]
fn the_real_matplotlib_is_shown() {
    let found =
        Command::new("python3").args(["-c", "import matplotlib.pyplot"]).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("skipped: no matplotlib");
        return;
    }
    let (_kernel, agent) = Kernel::start();
    let kinds = |source: &str| -> Vec<String> {
        in_order(&agent, source).into_iter().map(|(kind, text)| format!("{kind} {:.40}", text)).collect()
    };
    let png = "media {\"type\": \"image/png\", \"data\": \"data:imag";
    let end = "finished {\"exitCode\": 0}";
    assert_eq!(kinds("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"), [png, end]);
    assert_eq!(
        kinds("plt.plot([1])\nplt.show()\nprint('between')\nfig, ax = plt.subplots()\nfig"),
        [png, "stdout between\n", png, end]
    );
    assert_eq!(kinds("plt.get_fignums(), plt.get_backend().lower()"), ["stdout ([], 'agg')\n", end]);
    let noise = "import random\nplt.figure(figsize=(20, 20))\n\
                 plt.imshow([[random.random() for _ in range(900)] for _ in range(900)], interpolation='nearest');";
    let seen = in_order(&agent, noise);
    assert!(
        seen[0].0 == "stderr" && seen[0].1.contains("is too large to be shown, so it is shown with"),
        "{}",
        seen[0].1
    );
    assert_eq!((seen[1].0.as_str(), seen[2].1.as_str()), ("media", "{\"exitCode\": 0}"));
}
