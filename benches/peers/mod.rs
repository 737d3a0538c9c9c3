//! What the benches of routing share: sockets and a runner on a thread.

#![allow(dead_code, reason = "each bench uses what it needs")]

use std::path::Path;
use std::thread::JoinHandle;

use berth_link::{Finished, Status};
use zmq::{SNDMORE, Socket};

/// A socket that leaves nothing behind.
pub fn socket(context: &zmq::Context, kind: zmq::SocketType) -> Socket {
    let socket = context.socket(kind).unwrap();
    socket.set_linger(0).unwrap();
    socket
}

/// A socket connected to a file in a directory.
pub fn connected(context: &zmq::Context, kind: zmq::SocketType, dir: &Path, name: &str) -> Socket {
    let socket = socket(context, kind);
    socket.connect(&format!("ipc://{}/{name}", dir.display())).unwrap();
    socket
}

/// A socket bound to one.
pub fn bound(context: &zmq::Context, kind: zmq::SocketType, dir: &Path, name: &str) -> Socket {
    let socket = socket(context, kind);
    socket.bind(&format!("ipc://{}/{name}", dir.display())).unwrap();
    socket
}

/// A port of this machine that nobody has now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A message of two frames.
pub fn send(socket: &Socket, kind: &str, payload: &[u8]) -> zmq::Result<()> {
    socket.send(kind, SNDMORE)?;
    socket.send(payload, 0)
}

/// A runner of the directory's sockets: sends as many records as each `exec` or `code` asks for, of `bytes` each,
/// then `finished`.
pub fn runner(context: &zmq::Context, dir: &Path, bytes: usize) -> JoinHandle<()> {
    let pull = connected(context, zmq::PULL, dir, "in");
    let push = connected(context, zmq::PUSH, dir, "out");
    serve(pull, push, bytes)
}

/// The same on its sockets.
pub fn serve(pull: Socket, push: Socket, bytes: usize) -> JoinHandle<()> {
    let status = Status {
        started_at: 0.0,
        replied_at: None,
        protocol: None,
        runner_version: None,
        incarnation: None,
        running: None,
        tasks_done: 0,
        last: None,
        ..Status::default()
    };
    // Text, as most output is.
    let payload = vec![b'x'; bytes];
    std::thread::spawn(move || {
        let serve = || -> zmq::Result<()> {
            loop {
                let message = pull.recv_multipart(0)?;
                match &message[0][..] {
                    b"status" => send(&push, "status", &status.encode())?,
                    b"exec" | b"code" => {
                        let records: u64 = std::str::from_utf8(&message[1]).unwrap().parse().unwrap();
                        for _ in 0..records {
                            send(&push, "stdout", &payload)?;
                        }
                        send(&push, "finished", &Finished::encode(0))?;
                    }
                    _ => {}
                }
            }
        };
        assert_eq!(serve(), Err(zmq::Error::ETERM));
    })
}
