//! While the agent loads a module: what it is at, on a line of a terminal.

use std::future::Future;
use std::time::Duration;

use crate::cli::Context;
use crate::cli::error::CliError;
use crate::cli::live::Live;
use crate::policy::Loading;

/// How often the agent is asked. The first time after as long: most modules are loaded by then.
const EVERY: Duration = Duration::from_millis(250);

/// Does `work`, which makes the agent load a module, and shows how far it is.
pub(super) async fn shown<T>(
    context: &Context,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut live = Live::new();
    if !live.is_terminal() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(EVERY) => {}
        }
        // An agent that does not tell is still at it.
        let loading: Option<Loading> = context.agent.get("/v1/policies/loading").await.unwrap_or_default();
        if let Some(loading) = loading {
            live.show(&line(loading));
        }
    }
}

fn line(loading: Loading) -> String {
    match loading.since_ms / 1000 {
        0 => format!("{} …", loading.stage.text()),
        seconds => format!("{} … {seconds} s", loading.stage.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Stage;

    #[test]
    fn the_line_says_what_and_for_how_long() {
        let at = |since_ms| line(Loading { stage: Stage::Compiling, since_ms });
        assert_eq!((at(900), at(5_200)), ("compiling …".to_owned(), "compiling … 5 s".to_owned()));
    }
}
