//! What the client library says, in this room's words.
//!
//! A status of the engine's becomes the error a caller can act on; a connection that fails becomes
//! [`EngineError::Unreachable`] with what a person can do about it.

use std::error::Error as _;
use std::io;

use bollard::errors::Error;

use crate::engine::EngineError;
use crate::ids::ContainerId;

/// The remedy that always helps.
pub(super) const WITHOUT_DOCKER: &str = "run kernels as processes of this host: --engine process";

/// What a call was about, so that "not found" can say what was not.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'a> {
    Engine,
    Image(&'a str),
    Container(&'a ContainerId),
    New { name: &'a str, image: &'a str },
}

/// Whether the engine refused the API version that was agreed on: it was restarted as another one.
pub(super) fn refuses_version(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code: 400, message }
        if message.contains("client version") || message.contains("API version"))
}

/// Whether the engine could not be reached, or went away while it was asked.
pub(super) fn is_unreachable(error: &Error) -> bool {
    matches!(
        error,
        Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
            | Error::SocketNotFoundError(_)
            | Error::RequestTimeoutError
    )
}

/// The status the engine answered with, if it answered.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Translates an error of the call `call` to the engine at `endpoint`.
pub(super) fn translate(call: &'static str, endpoint: &str, about: About<'_>, error: &Error) -> EngineError {
    if let Error::DockerResponseServerError { status_code, message } = error {
        return answered(call, about, *status_code, message);
    }
    if is_unreachable(error) {
        return unreachable(endpoint, error);
    }
    let message = match error {
        Error::JsonDataError { message, .. } => format!("its answer cannot be read: {message}"),
        other => other.to_string(),
    };
    EngineError::Failed { call, message: clean(&message) }
}

fn answered(call: &'static str, about: About<'_>, status: u16, message: &str) -> EngineError {
    let lower = message.to_ascii_lowercase();
    match (status, about) {
        (404, About::Image(image) | About::New { image, .. }) if lower.contains("no such image") => {
            EngineError::NoSuchImage(image.to_owned())
        }
        (404, About::Container(id)) if lower.contains("no such container") => {
            EngineError::NoSuchContainer(id.clone())
        }
        (409, About::New { name, .. }) if lower.contains("already in use") => {
            EngineError::NameTaken(name.to_owned())
        }
        (400..500, _) => EngineError::Refused { call, message: clean(message) },
        _ => EngineError::Failed { call, message: clean(message) },
    }
}

fn unreachable(endpoint: &str, error: &Error) -> EngineError {
    let kind = match error {
        Error::SocketNotFoundError(_) => Some(io::ErrorKind::NotFound),
        Error::IOError { err } => Some(err.kind()),
        Error::RequestTimeoutError => Some(io::ErrorKind::TimedOut),
        other => cause(other),
    };
    let (problem, remedy) = match kind {
        Some(io::ErrorKind::PermissionDenied) => (
            "this user may not use the socket".to_owned(),
            "join the docker group, then log in again: sudo usermod -aG docker $USER",
        ),
        Some(io::ErrorKind::NotFound) => (
            "there is no such socket".to_owned(),
            "install Docker and start it: sudo apt install docker.io && sudo systemctl start docker",
        ),
        Some(io::ErrorKind::ConnectionRefused) => {
            ("nothing listens there".to_owned(), "start Docker: sudo systemctl start docker")
        }
        _ => (clean(&deepest(error)), "see whether Docker is well: sudo systemctl status docker"),
    };
    EngineError::Unreachable {
        engine: "Docker",
        endpoint: endpoint.to_owned(),
        problem,
        remedies: vec![remedy.to_owned(), WITHOUT_DOCKER.to_owned()],
    }
}

fn cause(error: &Error) -> Option<io::ErrorKind> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

/// The innermost cause: the outer layers only say that something went wrong.
fn deepest(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    text
}

/// One line of bounded length without control characters, whatever an engine sends.
pub(super) fn clean(message: &str) -> String {
    const MOST: usize = 500;
    let words = message.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.len() > MOST {
            let cut = (0..=MOST).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line.truncate(cut);
            line.push('…');
            break;
        }
    }
    match line.is_empty() {
        true => "the engine gave no reason".to_owned(),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(about: About<'_>, status_code: u16, message: &str, expected: &str) {
        let error = Error::DockerResponseServerError { status_code, message: message.to_owned() };
        let error = translate("create", "unix:///d.sock", about, &error);
        assert_eq!(format!("{}: {error}", error.code()), expected);
    }

    #[test]
    fn what_the_engine_answers_becomes_what_a_caller_can_act_on() {
        let id: ContainerId = "c1".parse().unwrap();
        let new = About::New { name: "k1", image: "python:0" };
        check(
            About::Image("python:0"),
            404,
            "No such image: python:0",
            "no-such-image: there is no image \"python:0\" on this node",
        );
        check(
            new,
            404,
            "No such image: python:0",
            "no-such-image: there is no image \"python:0\" on this node",
        );
        check(new, 404, "network x not found", "engine-refused: create was refused: network x not found");
        check(
            About::Container(&id),
            404,
            "No such container: c1",
            "no-such-container: there is no container c1",
        );
        check(
            new,
            409,
            "Conflict. The container name \"/k1\" is already in use by container \"abc\".",
            "container-name-taken: a container of the name \"k1\" exists already",
        );
        check(new, 400, " bad\n\tthing\u{1b}[0m ", "engine-refused: create was refused: bad thing [0m");
        check(new, 500, "", "engine-failed: create failed: the engine gave no reason");
    }

    fn check_unreachable(error: &Error, expected: (&str, &str)) {
        match translate("info", "unix:///d.sock", About::Engine, error) {
            EngineError::Unreachable { problem, remedies, .. } => {
                assert_eq!((problem.as_str(), remedies[0].as_str()), expected);
                assert_eq!(remedies[1], WITHOUT_DOCKER);
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_engine_out_of_reach_names_two_remedies() {
        let io = |kind: io::ErrorKind| Error::IOError { err: kind.into() };
        check_unreachable(
            &io(io::ErrorKind::PermissionDenied),
            (
                "this user may not use the socket",
                "join the docker group, then log in again: sudo usermod -aG docker $USER",
            ),
        );
        check_unreachable(
            &Error::SocketNotFoundError("/d.sock".into()),
            (
                "there is no such socket",
                "install Docker and start it: sudo apt install docker.io && sudo systemctl start docker",
            ),
        );
        check_unreachable(
            &io(io::ErrorKind::ConnectionRefused),
            ("nothing listens there", "start Docker: sudo systemctl start docker"),
        );
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let text = clean(&"é".repeat(2000));
        assert!(text.ends_with('…') && text.len() < 510);
    }

    #[test]
    fn only_a_refused_version_is_negotiated_again() {
        let refused = |message: &str| {
            refuses_version(&Error::DockerResponseServerError { status_code: 400, message: message.into() })
        };
        assert!(refused("client version 1.41 is too old. Minimum supported API version is 1.44"));
        assert!(refused("client version 1.53 is too new. Maximum supported API version is 1.41"));
        assert!(!refused("invalid mount config"));
    }
}
