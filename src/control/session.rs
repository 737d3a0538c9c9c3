//! One run over one upgraded connection: the agent's side of [`super::stream`].
//!
//! Takes frames from the client to the run and output from the run to the client, as fast as the client's
//! credit allows. While there is no credit the run's output is not taken, so the kernel waits and nobody
//! else does. When the client is lost the run is dropped, which tells the route, and the route keeps what was
//! not taken for the client's return.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

use super::api::ErrorBody;
use super::stream::{ClientFrame, Credit, FrameError, Open, Resumed, ServerCodec, ServerFrame, Signal};
use crate::ids::KernelId;
use crate::route::{self, Output, Rejoined, RouteError, RunControl, StreamRun};

/// How long a client may take to say what it wants.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to hang up after the end.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Serves one run, from `open` to its end or to the client's.
pub(super) async fn serve<C>(
    connection: C,
    kernel: KernelId,
    route: &route::Handle,
    stopping: &CancellationToken,
) where
    C: AsyncRead + AsyncWrite + Send,
{
    let (read, write) = tokio::io::split(connection);
    let mut reader = FramedRead::new(read, ServerCodec::default());
    let mut writer = FramedWrite::new(write, ServerCodec::default());

    let last = match begin(&mut reader, kernel, route, stopping).await {
        Ok(Some(begun)) => converse(begun, &mut reader, &mut writer, stopping).await,
        Ok(None) => return,
        Err(error) => Some(ServerFrame::Error(error)),
    };
    let Some(last) = last else {
        tracing::debug!(%kernel, "the client of a run is gone");
        return;
    };
    if writer.send(last).await.is_err() || writer.close().await.is_err() {
        return;
    }
    // What the client still had on its way is taken, so that its last writes do not fail.
    let hang_up = async { while let Some(Ok(_)) = reader.next().await {} };
    let _ = tokio::time::timeout(CLOSE_WITHIN, hang_up).await;
}

/// What a conversation begins with.
struct Begun {
    run: StreamRun,
    credit: Credit,
    /// Of a client that came back: what it is told first, and whether its run has started.
    resumed: Option<(Resumed, bool)>,
}

/// Reads `open` and begins the run, or takes it up again; none when the client left.
async fn begin<R: AsyncRead + Unpin>(
    reader: &mut FramedRead<R, ServerCodec>,
    kernel: KernelId,
    route: &route::Handle,
    stopping: &CancellationToken,
) -> Result<Option<Begun>, ErrorBody> {
    let Ok(first) = tokio::time::timeout(OPEN_WITHIN, reader.next()).await else {
        return Err(bad_frame("no `open` came within 10 s"));
    };
    match first {
        Some(Ok(ClientFrame::Open(Open { request, credit, resume: None }))) => {
            let run = route.run(kernel, request).await?;
            Ok(Some(Begun { run, credit: Credit::new(credit), resumed: None }))
        }
        Some(Ok(ClientFrame::Open(Open { request, credit, resume: Some(resume) }))) => {
            // Waits until the runner has answered, which one that is stuck does not.
            let joined = tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(agent_ends()),
                joined = route.rejoin(kernel, request, resume) => joined?,
                // It says nothing before it is told where to go on, unless it gives up.
                _ = reader.next() => return Ok(None),
            };
            let Rejoined { run, stdin_bytes, stdin_room, started } = joined;
            let resumed = Resumed { stdin_bytes, stdin_room: stdin_room as u64 };
            Ok(Some(Begun { run, credit: Credit::new(credit), resumed: Some((resumed, started)) }))
        }
        Some(Ok(_)) => Err(bad_frame("the first frame must be `open`")),
        Some(Err(FrameError::Io(_))) | None => Ok(None),
        Some(Err(error)) => Err(bad_frame(&error.to_string())),
    }
}

fn agent_ends() -> ErrorBody {
    ErrorBody::new("stopping", "the agent is ending; the kernel runs on")
        .with_hint("when it is back, `berth ps` shows the kernel")
}

/// The conversation after `open`. Returns the last frame, or none when the client is gone.
async fn converse<R, W>(
    begun: Begun,
    reader: &mut FramedRead<R, ServerCodec>,
    writer: &mut FramedWrite<W, ServerCodec>,
    stopping: &CancellationToken,
) -> Option<ServerFrame>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Begun { mut run, mut credit, resumed } = begun;
    // Standard input that the client may still send.
    let mut stdin_left = berth_link::STDIN_WINDOW as u64;
    if let Some((resumed, started)) = resumed {
        stdin_left = resumed.stdin_room;
        writer.send(ServerFrame::Resumed(resumed)).await.ok()?;
        if started {
            writer.send(started_by(&run)).await.ok()?;
        }
    }
    // Output that was taken but could not be sent whole.
    let mut rest: Option<Output> = None;
    loop {
        if credit.left() > 0
            && let Some(output) = rest.take()
        {
            let (frame, more) = cut(output, &mut credit);
            rest = more;
            writer.send(frame).await.ok()?;
            continue;
        }
        tokio::select! {
            // The client first: what it says (a signal, credit) decides what is done next. All branches are
            // cancel-safe: a frame or a record is taken whole or not at all.
            biased;
            () = stopping.cancelled() => {
                return Some(ServerFrame::Error(agent_ends()));
            }
            frame = reader.next() => {
                let told = match frame? {
                    Ok(ClientFrame::Credit(bytes)) => {
                        credit.give(bytes);
                        Ok(())
                    }
                    Ok(frame) => tell(&run.control, frame, &mut stdin_left).await,
                    Err(FrameError::Io(_) | FrameError::Cut) => return None,
                    Err(error) => Err(bad_frame(&error.to_string())),
                };
                if let Err(error) = told {
                    let _ = run.control.cancel().await;
                    return Some(ServerFrame::Error(error));
                }
            }
            output = run.output.recv(), if credit.left() > 0 => match output {
                Some(Output::Ended(end)) => return Some(ServerFrame::Exit(end)),
                Some(Output::Started) => writer.send(started_by(&run)).await.ok()?,
                Some(Output::StepEnded { .. }) => {}
                Some(Output::StdinCredit(bytes)) => {
                    stdin_left = stdin_left.saturating_add(bytes);
                    writer.send(ServerFrame::StdinCredit(bytes)).await.ok()?;
                }
                Some(output) => rest = Some(output),
                None => return Some(ServerFrame::Error(RouteError::Closed.into())),
            }
        }
    }
}

fn started_by(run: &StreamRun) -> ServerFrame {
    ServerFrame::Started { incarnation: run.output.incarnation().map(str::to_owned) }
}

/// Hands what the client says to the run. A run that has ended meanwhile takes nothing any more: its end is
/// on the way, so that is no error.
async fn tell(run: &RunControl, frame: ClientFrame, stdin_left: &mut u64) -> Result<(), ErrorBody> {
    let told = match frame {
        ClientFrame::Open(_) => return Err(bad_frame("`open` came twice")),
        ClientFrame::Credit(_) => Ok(()),
        ClientFrame::Stdin(data) if data.is_empty() => Ok(()),
        ClientFrame::Stdin(data) => {
            let Some(left) = stdin_left.checked_sub(data.len() as u64) else {
                return Err(bad_frame("more standard input came than there was credit for"));
            };
            *stdin_left = left;
            run.stdin(data).await
        }
        ClientFrame::StdinEof => run.stdin_eof().await,
        ClientFrame::Signal(Signal::Interrupt) => run.interrupt().await,
        ClientFrame::Signal(Signal::Cancel) => run.cancel().await,
        ClientFrame::Input(text) => run.input(text).await,
    };
    if let Err(error) = told {
        tracing::debug!(run = %run.run(), %error, "a run did not take what its client said");
    }
    Ok(())
}

/// The frame for a record of output, as long as the credit lasts, and what is left of the record.
fn cut(output: Output, credit: &mut Credit) -> (ServerFrame, Option<Output>) {
    let split = |mut data: Bytes, credit: &mut Credit| {
        let now = data.split_to(data.len().min(credit.left()));
        credit.spend(now.len());
        (now, Some(data).filter(|rest| !rest.is_empty()))
    };
    match output {
        // Who began it, and what a step of a batch returned, is for the caller only.
        Output::Started | Output::StepEnded { .. } => (ServerFrame::Started { incarnation: None }, None),
        Output::Stdout(data) => {
            let (now, rest) = split(data, credit);
            (ServerFrame::Stdout(now), rest.map(Output::Stdout))
        }
        Output::Stderr(data) => {
            let (now, rest) = split(data, credit);
            (ServerFrame::Stderr(now), rest.map(Output::Stderr))
        }
        Output::Log(data) => cut(Output::Stderr(data), credit),
        Output::Media(data) => {
            credit.spend(data.len());
            (ServerFrame::Media(data), None)
        }
        Output::WaitingInput { is_password } => {
            (ServerFrame::WaitingInput { is_password: is_password.unwrap_or(false) }, None)
        }
        Output::StdinCredit(bytes) => (ServerFrame::StdinCredit(bytes), None),
        Output::Lost(bytes) => (ServerFrame::Lost(bytes), None),
        Output::Ended(end) => (ServerFrame::Exit(end), None),
    }
}

fn bad_frame(problem: &str) -> ErrorBody {
    ErrorBody::new("bad-frame", problem)
        .with_hint("client and agent are of different versions, or one is broken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_at_the_credit_and_nothing_of_it_is_lost() {
        let data = Bytes::from((0u8..=255).collect::<Vec<_>>());
        let (mut rest, mut sent) = (Some(Output::Stdout(data.clone())), Vec::new());
        let mut credit = Credit::new(0);
        while let Some(output) = rest.take() {
            credit.give(100);
            let (frame, more) = cut(output, &mut credit);
            let ServerFrame::Stdout(piece) = frame else { panic!("another stream: {frame:?}") };
            assert!(piece.len() <= 100);
            sent.extend_from_slice(&piece);
            rest = more;
        }
        assert_eq!(sent, data);
        assert_eq!(credit.left(), 300 - 256);
    }

    #[test]
    fn a_media_record_goes_whole_and_its_debt_is_paid_first() {
        let mut credit = Credit::new(1);
        let (frame, rest) = cut(Output::Media(Bytes::from(vec![0; 10])), &mut credit);
        assert!(matches!(frame, ServerFrame::Media(data) if data.len() == 10));
        assert_eq!((rest, credit.left()), (None, 0));
        credit.give(9);
        assert_eq!(credit.left(), 0);
        credit.give(1);
        assert_eq!(credit.left(), 1);
    }
}
