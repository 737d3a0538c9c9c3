//! The client against a small HTTP server of the agent's make.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::*;

/// Serves `app` until the folder's guard and the task are dropped.
async fn serve(app: Router) -> (Agent, tempfile::TempDir, AbortOnDropHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("berth.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (Agent::at(Some(socket)).unwrap(), dir, AbortOnDropHandle::new(task))
}

fn body() -> CreateBody {
    let ids = r#"{"kernel": "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a001", "session": "5f0c9f0e-3ad4-4a57-8d7f-3f6a7cf7a002"}"#;
    serde_json::from_str(ids).unwrap()
}

#[test]
fn file_names_survive_the_query() {
    assert_eq!(escaped("a b&c=é.txt"), "a%20b%26c%3D%C3%A9.txt");
}

#[tokio::test]
async fn a_missing_and_a_stale_socket_mean_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::at(Some(dir.path().join("berth.sock"))).unwrap();
    assert_eq!(agent.get::<()>("/v1/status").await.unwrap_err().code, "no-agent");
    drop(std::os::unix::net::UnixListener::bind(agent.socket()).unwrap());
    assert_eq!(agent.get::<()>("/v1/status").await.unwrap_err().code, "no-agent");
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_hint() {
    let refuse = || async { ErrorBody::new("name-taken", "k1 exists").with_hint("berth rm k1") };
    let (agent, _dir, _task) = serve(Router::new().route("/v1/kernels", post(refuse))).await;
    let error = agent.create(&body(), |_, _| ()).await.unwrap_err();
    assert_eq!(error, ErrorBody::new("name-taken", "k1 exists").with_hint("berth rm k1").into());
}

#[tokio::test]
async fn a_creation_tells_its_steps_and_its_failure() {
    let steps = || async {
        // Cut where no line ends, as a connection may.
        let pieces = [
            "{\"step\": \"phase\", \"phase\": \"waiting\", \"no",
            "te\": \"2 cores asked, 1 free\"}\n{\"step\": \"failed\", \"error\": {\"code\": \"x\", ",
            "\"message\": \"no\", \"hint\": null}}\n",
        ];
        Body::from_stream(futures_util::stream::iter(pieces.map(Ok::<_, Infallible>)))
    };
    let (agent, _dir, _task) = serve(Router::new().route("/v1/kernels", post(steps))).await;
    let mut notes = Vec::new();
    let error =
        agent.create(&body(), |phase, note| notes.push((phase, note.map(str::to_owned)))).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.message.as_str()), ("x", "no"));
    assert_eq!(notes, [(Phase::Waiting, Some("2 cores asked, 1 free".to_owned()))]);
}

/// Tells when it is dropped.
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_creation_that_is_dropped_is_cancelled_at_the_agent() {
    let (begun, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, told) = (Arc::clone(&begun), Arc::clone(&gone));
    let endless = move || {
        let (began, told) = (Arc::clone(&began), Told(Arc::clone(&told)));
        async move {
            let first = futures_util::stream::once(async {
                Ok::<_, Infallible>("{\"step\": \"phase\", \"phase\": \"waiting\"}\n")
            });
            let rest = futures_util::stream::once(async move {
                let _told = told;
                began.notify_one();
                std::future::pending().await
            });
            Body::from_stream(first.chain(rest))
        }
    };
    let (agent, _dir, _task) = serve(Router::new().route("/v1/kernels", post(endless))).await;
    let body = body();
    let create = agent.create(&body, |_, _| ());
    tokio::select! {
        result = create => panic!("it ended: {result:?}"),
        () = begun.notified() => {}
    }
    gone.notified().await;
}

#[tokio::test]
async fn an_agent_that_goes_away_in_the_middle_is_said() {
    let cut = || async {
        Body::from_stream(futures_util::stream::iter([Ok("{\"step\""), Err(io::Error::other("gone"))]))
    };
    let (agent, _dir, _task) = serve(Router::new().route("/v1/kernels", post(cut))).await;
    assert_eq!(agent.create(&body(), |_, _| ()).await.unwrap_err(), lost());
}

#[tokio::test]
async fn a_file_arrives_whole_and_a_refusal_of_it_is_seen() {
    let count = |query: axum::extract::RawQuery, body: Body| async move {
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let told = format!("{} {}", query.0.unwrap(), crate::ids::Digest::of(&bytes));
        ErrorBody::new("told", told)
    };
    let (agent, dir, _task) = serve(Router::new().route("/v1/kernels/{kernel}/files", put(count))).await;
    let content: Vec<u8> = (0u32..3_000_000).flat_map(u32::to_le_bytes).collect();
    let from = dir.path().join("big file");
    std::fs::write(&from, &content).unwrap();
    let file = Upload { from, name: "big file".to_owned(), mode: 0o640 };
    let error = agent.upload(KernelId::random(), &file).await.unwrap_err();
    let told = format!("path=big%20file&mode=416 {}", crate::ids::Digest::of(&content));
    assert!(error.code == "told" && error.message.ends_with(&told), "{error:?}");
}

#[tokio::test]
async fn a_run_gets_its_connection() {
    let echo = |mut request: Request| async move {
        assert_eq!(request.headers()[header::UPGRADE], stream::PROTOCOL);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let mut response: Response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(stream::PROTOCOL));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response
    };
    let (agent, _dir, _task) = serve(Router::new().route("/v1/kernels/{kernel}/runs", post(echo))).await;
    let mut connection = TokioIo::new(agent.open_stream(&"k1".parse().unwrap()).await.unwrap());
    connection.write_all(b"\x00\xffbytes").await.unwrap();
    let mut back = [0; 7];
    connection.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"\x00\xffbytes");
}

#[tokio::test]
async fn an_answer_of_another_version_is_said() {
    let (agent, _dir, _task) =
        serve(Router::new().route("/v1/kernels/k1", get(|| async { "{\"id\": 3}" }))).await;
    let error = agent.kernel(&"k1".parse().unwrap()).await.unwrap_err();
    assert!(error.message.starts_with("the agent's answer was not understood"), "{}", error.message);
    assert!(error.hint.unwrap().contains("different versions"));
}
