//! A client that calls as a manager does.

use callosum::{Call, Outcome, Value, decode_reply, encode_call};
use zmq::{DEALER, Socket};

/// What the manager's pool sends as the ordering key.
const OKEY: &[u8] = b"\xc4\x00";
/// Only a hang meets it.
const PATIENCE_MS: i32 = 120_000;

/// Keys of a client that speaks CURVE, 32 bytes each.
pub struct Keys {
    pub server_public: Vec<u8>,
    pub public: Vec<u8>,
    pub secret: Vec<u8>,
}

/// One connection.
pub struct Rpc {
    socket: Socket,
    seq: std::cell::Cell<u32>,
    _context: zmq::Context,
}

impl Rpc {
    pub fn connect(endpoint: &str, keys: Option<&Keys>) -> Self {
        let context = zmq::Context::new();
        let socket = context.socket(DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(PATIENCE_MS).unwrap();
        if let Some(keys) = keys {
            socket.set_curve_serverkey(&keys.server_public).unwrap();
            socket.set_curve_publickey(&keys.public).unwrap();
            socket.set_curve_secretkey(&keys.secret).unwrap();
        }
        socket.connect(endpoint).unwrap();
        Self { socket, seq: std::cell::Cell::new(0), _context: context }
    }

    /// Answers are waited for no longer than this.
    pub fn patience(&self, milliseconds: i32) {
        self.socket.set_rcvtimeo(milliseconds).unwrap();
    }

    /// Sends a call and returns its number.
    pub fn send(&self, method: &str, args: Vec<Value>) -> u32 {
        let seq = self.seq.get();
        self.seq.set(seq + 1);
        let kwargs = vec![("agent_id".to_owned(), Value::Nil)];
        let [header, body] = encode_call(method, OKEY, seq, &Call { args, kwargs, ..Call::default() });
        self.socket.send_multipart([&b"UPPER"[..], &header, &body], 0).unwrap();
        seq
    }

    /// The next answer with the number of its call; none when none came in time.
    pub fn receive(&self) -> Option<(u32, Outcome)> {
        let frames = self.socket.recv_multipart(0).ok()?;
        let [kind, header, body] = &frames[..] else { panic!("{} frames", frames.len()) };
        assert_eq!(kind, b"UPPER");
        let seq = callosum::Header::decode(header).unwrap().seq;
        Some((seq, decode_reply(header, body).unwrap().outcome))
    }

    /// Calls and waits.
    pub fn outcome(&self, method: &str, args: Vec<Value>) -> Outcome {
        let seq = self.send(method, args);
        let (of, outcome) = self.receive().unwrap_or_else(|| panic!("{method} was not answered"));
        assert_eq!(of, seq);
        outcome
    }

    /// Calls what must succeed.
    pub fn call(&self, method: &str, args: Vec<Value>) -> Value {
        match self.outcome(method, args) {
            Outcome::Result(value) => value,
            other => panic!("{method}: {other:?}"),
        }
    }

    /// The arguments of `execute` with the manager's api version and patience.
    pub fn turn(kernel: &str, run: impl Into<Value>, mode: &str, code: &str, opts: Value) -> Vec<Value> {
        vec![
            "s".into(),
            kernel.into(),
            9.into(),
            run.into(),
            mode.into(),
            code.into(),
            opts,
            Value::Float(2.0),
        ]
    }

    /// One turn of a run.
    pub fn execute(&self, kernel: &str, run: impl Into<Value>, mode: &str, code: &str) -> Value {
        self.call("execute", Self::turn(kernel, run, mode, code, Value::Map(Vec::new())))
    }

    /// A run from its first turn to its end: the last result, and the console of all.
    pub fn run(
        &self,
        kernel: &str,
        run: &str,
        mode: &str,
        code: &str,
        opts: Value,
    ) -> (Value, Vec<(String, String)>) {
        let mut result = self.call("execute", Self::turn(kernel, run, mode, code, opts));
        let mut console = texts(&result);
        while status(&result) != "finished" {
            result = self.execute(kernel, run, "continue", "");
            console.extend(texts(&result));
        }
        (result, console)
    }
}

/// `status` of a result.
pub fn status(result: &Value) -> &str {
    result.get("status").and_then(Value::as_str).unwrap()
}

/// `exitCode` of a result.
pub fn exit_code(result: &Value) -> Option<i64> {
    result.get("exitCode").and_then(Value::as_i64)
}

/// The console's items that are text: kind and text.
pub fn texts(result: &Value) -> Vec<(String, String)> {
    let Some(Value::Array(items)) = result.get("console") else { panic!("{result:?}") };
    let item = |item: &Value| match item {
        Value::Array(pair) => {
            let text = |at: usize| pair.get(at).and_then(Value::as_str).unwrap_or("?").to_owned();
            (text(0), text(1))
        }
        other => panic!("{other:?}"),
    };
    items.iter().map(item).collect()
}
