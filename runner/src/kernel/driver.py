"""The language process of a kernel: runs code in one namespace, and shows its last value as notebooks do.

Started by the runner with the control socket as standard input; the frames are described in driver.rs.
Output needs no protocol: descriptors 1 and 2 are pipes that the runner reads, so what C code and
children print is seen too. Python 3.6 and later. display.py and complete.py stand before this file in one
program.
"""

import _socket
import builtins
import contextlib
import faulthandler
import io
import linecache
import os
import select
import signal
import sys
import threading
import traceback
import types

# How many runs' sources are kept for tracebacks of functions that earlier runs defined.
SOURCES_MAX = 512


def open_null():
    try:
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        reading, writing = os.pipe()
        os.close(writing)
        return reading


class Control:
    """The socket to the runner. Reading is shared by the main loop and by `input()` in any thread."""

    def __init__(self, fd):
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)
        self.buffer = bytearray()
        self.fds = []
        self.frames = []
        self.reading = threading.Lock()
        self.writing = threading.Lock()

    def send(self, kind, payload=b""):
        body = kind + payload
        with self.writing:
            self.socket.sendall(len(body).to_bytes(4, "big") + body)

    def wait(self, seconds=None):
        """Until something can be read, or false. Can be interrupted without losing anything."""
        return bool(
            self.frames
            or self.has_frame()
            or select.select([self.socket.fileno()], [], [], seconds)[0]
        )

    def has_frame(self):
        return len(self.buffer) >= 4 and len(self.buffer) >= 4 + int.from_bytes(self.buffer[:4], "big")

    def receive(self):
        """The next frame: kind, payload, descriptor or None. Must not be interrupted."""
        if self.frames:
            return self.frames.pop(0)
        while not self.has_frame():
            part, ancillary, _, _ = self.socket.recvmsg(1 << 16, _socket.CMSG_SPACE(4 * 4))
            if not part:
                os._exit(0)  # The runner is gone.
            for level, kind, data in ancillary:
                if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                    self.fds += [
                        int.from_bytes(data[at : at + 4], sys.byteorder) for at in range(0, len(data) - 3, 4)
                    ]
            self.buffer += part
        end = 4 + int.from_bytes(self.buffer[:4], "big")
        kind, payload = bytes(self.buffer[4:5]), bytes(self.buffer[5:end])
        del self.buffer[:end]
        fd = None
        if kind in (b"A", b"C"):
            flag, payload = payload[:1], payload[1:]
            if flag == b"1" and self.fds:
                fd = self.fds.pop(0)
        return kind, payload, fd


class Unbroken:
    """Holds SIGINT back from the main thread: half a frame must be neither sent nor taken."""

    def __init__(self, driver):
        self.driver = driver

    def __enter__(self):
        self.is_main = threading.current_thread() is threading.main_thread()
        if self.is_main:
            self.driver.held = True

    def __exit__(self, *_failure):
        if self.is_main:
            self.driver.held = False
            if self.driver.pending:
                self.driver.pending = False
                raise KeyboardInterrupt


class Driver:
    def __init__(self):
        self.pid = os.getpid()
        self.control = Control(os.dup(0))  # Not inherited by children.
        self.null = open_null()
        self.saved = {1: os.dup(1), 2: os.dup(2)}
        self.encoding = getattr(sys.stdin, "encoding", None) or "utf-8"
        self.errors = getattr(sys.stdin, "errors", None) or "strict"
        self.main = types.ModuleType("__main__")
        self.main.__dict__["__builtins__"] = builtins
        self.own = sys.modules["__main__"]  # Keeps this file's names alive.
        sys.modules["__main__"] = self.main
        self.names = []
        self.count = 0
        self.running = False  # SIGINT raises KeyboardInterrupt,
        self.held = False  # ... but not in this moment,
        self.pending = False  # ... so afterwards.
        self.completing = False  # SIGINT says that it takes too long.
        self.acks = None  # Where the runner says how many media it has queued.
        self.media = 0
        self.showing = threading.Lock()
        self.stdin = None
        self.has_stdin = False
        self.users_handler = self.on_interrupt
        self.modules_seen = 0
        self.needs_fflush = False
        self.fflush = None
        sys.argv = [""]
        os.dup2(self.null, 0)
        # Where C code crashes, the line of Python that called it is worth knowing.
        faulthandler.enable(self.saved[2])
        self.hook_input()
        self.display = Display(self.send_media)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True)
        signal.signal(signal.SIGINT, self.on_interrupt)

    # -- interrupts

    def on_interrupt(self, number, frame):
        if os.getpid() != self.pid or self.completing:
            signal.default_int_handler(number, frame)
        elif self.running:
            if self.held:
                self.pending = True
            else:
                signal.default_int_handler(number, frame)

    # -- input

    def hook_input(self):
        original = builtins.input

        def input(prompt=""):
            """Read a line from standard input; without one, ask the client for it."""
            if self.has_stdin or sys.stdin is not self.stdin:
                return original(prompt)
            return self.ask(prompt, False)

        def getpass(prompt="Password: ", stream=None, **_options):
            """Ask for a line that is not shown."""
            if not self.has_stdin and sys.stdin is self.stdin:
                return self.ask(prompt, True)
            self.prompt(prompt)
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            return line[:-1] if line.endswith("\n") else line

        input.__module__ = "builtins"
        builtins.input = input
        try:
            import getpass as module
        except ImportError:
            return
        module.getpass = getpass

    def prompt(self, prompt):
        sys.stdout.write(str(prompt))
        sys.stdout.flush()

    def ask(self, prompt, is_password):
        self.prompt(prompt)
        with self.control.reading:
            if os.getpid() != self.pid or not self.running:
                raise EOFError("there is no task that could be asked for input")
            self.control.send(b"W", b"1" if is_password else b"0")
            # An interrupt just before a wait without an end would be heard after it.
            while not self.control.wait(1):
                pass
            with Unbroken(self):
                frame = self.control.receive()
                if frame[0] != b"I":
                    self.control.frames.append(frame)
                    raise EOFError("the task that asked for input has ended")
        line = frame[1].decode("utf-8", "replace")
        return line[:-1] if line.endswith("\n") else line

    # -- standard streams

    def prepare_streams(self, fd):
        self.has_stdin = fd is not None
        os.dup2(self.null if fd is None else fd, 0)
        if fd is not None:
            os.close(fd)
        self.stdin = open(0, "r", encoding=self.encoding, errors=self.errors, closefd=False)
        sys.stdin = sys.__stdin__ = self.stdin
        # What the run before has closed is there again.
        for number, name in ((1, "stdout"), (2, "stderr")):
            try:
                os.fstat(number)
            except OSError:
                os.dup2(self.saved[number], number)
            stream = getattr(sys, name, None)
            if stream is None or getattr(stream, "closed", False):
                errors = "backslashreplace" if number == 2 else self.errors
                stream = open(number, "w", 1, encoding=self.encoding, errors=errors, closefd=False)
                setattr(sys, name, stream)
                setattr(sys, "__%s__" % name, stream)

    def flush(self):
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            try:
                stream.flush()
            except Exception:
                pass  # Closed or replaced: the code's own business.
        try:
            self.flush_c()
        except Exception:
            pass

    def flush_c(self):
        """What C code has printed lies in C's own buffers; they matter once such code is loaded."""
        if len(sys.modules) != self.modules_seen:
            self.modules_seen = len(sys.modules)
            self.needs_fflush = self.needs_fflush or "ctypes" in sys.modules or any(
                "-packages" in (getattr(module, "__file__", None) or "")
                and module.__file__.endswith(".so")
                for module in list(sys.modules.values())
            )
        if self.needs_fflush:
            if self.fflush is None:
                import ctypes

                self.fflush = ctypes.CDLL(None).fflush
            self.fflush(None)

    # -- media

    def send_media(self, letter, payload):
        """Sends an item and waits until it is queued: what is printed afterwards comes after it. False in
        a forked child, which has no part in this conversation."""
        if os.getpid() != self.pid or self.acks is None:
            return False
        self.flush()
        with self.showing:
            with Unbroken(self):
                self.media += 1
                number = self.media
                self.control.send(letter, number.to_bytes(4, "big") + payload)
            # One that was interrupted here has its number still to come.
            while True:
                select.select([self.acks], [], [])
                with Unbroken(self):
                    answer = os.read(self.acks, 4)
                if not answer:
                    os._exit(0)  # The runner is gone.
                if int.from_bytes(answer, "big") == number:
                    return True

    # -- code

    def run(self, source, fd):
        self.count += 1
        name = "<code %d>" % self.count
        text = source.decode("utf-8", "replace")
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        self.names.append(name)
        if len(self.names) > SOURCES_MAX:
            linecache.cache.pop(self.names.pop(0), None)
        self.prepare_streams(fd)
        if self.users_handler is not None:
            signal.signal(signal.SIGINT, self.users_handler)
        code = self.attempt(lambda: self.execute(source, name))
        if self.display.figures.are_open():
            code = self.attempt(self.display.figures.show_all) or code
        self.display.figures.forget()
        self.flush()
        if os.getpid() != self.pid:
            os._exit(code)  # A forked child that ran to the end of the code.
        handler = signal.getsignal(signal.SIGINT)
        self.users_handler = handler
        if handler != self.on_interrupt:
            signal.signal(signal.SIGINT, self.on_interrupt)
        self.pending = False
        return code

    def execute(self, source, name):
        self.control.send(b"B")
        for part in compile_task(source, name):
            exec(part, self.main.__dict__)

    def attempt(self, body):
        """Does what may fail on behalf of the task; the exit code."""
        try:
            try:
                self.running = True
                body()
            finally:
                self.running = False
        except SystemExit as end:
            self.running = False
            return self.exit_code(end.code)
        except BaseException:
            self.running = False
            self.show(*sys.exc_info())
            return 1
        return 0

    def exit_code(self, code):
        if code is None:
            return 0
        if isinstance(code, int):
            return code & 0xFF
        try:
            print(code, file=sys.stderr)
        except Exception:
            pass
        return 1

    def show(self, kind, value, trace):
        while trace is not None and trace.tb_frame.f_globals is globals():
            trace = trace.tb_next
        # Frames of ours at its end, as of an interrupt or of `input`, are nobody's business either.
        last, link = None, trace
        while link is not None:
            if link.tb_frame.f_globals is not globals():
                last = link
            link = link.tb_next
        if last is not None and last.tb_next is not None and sys.version_info >= (3, 7):
            last.tb_next = None  # Cannot be set before.
        try:
            value.__traceback__ = trace
            sys.last_type, sys.last_value, sys.last_traceback = kind, value, trace
            if sys.excepthook is not sys.__excepthook__:
                sys.excepthook(kind, value, trace)
            else:
                lines = traceback.TracebackException(kind, value, trace)
                if sys.version_info < (3, 7):
                    lines.stack[:] = [line for line in lines.stack if line.filename != "<berth>"]
                print("".join(lines.format()), file=sys.stderr, end="")
        except BaseException:
            os.write(self.saved[2], ("%s (its traceback could not be shown)\n" % kind.__name__).encode())

    # -- completion

    def complete(self, payload):
        import json

        found = []
        try:
            # To look at names may run their code, and what that prints was not asked for.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                self.completing = True
                try:
                    request = json.loads(payload.decode("utf-8", "replace"))
                    found = suggestions(request, self.main.__dict__)
                finally:
                    self.completing = False
        except BaseException:
            self.completing = False
        return json.dumps({"suggestions": found}).encode()

    def loop(self):
        while True:
            with self.control.reading:
                kind, payload, fd = self.control.receive()
            if kind == b"A":
                os.set_inheritable(fd, False)
                self.acks = fd
            elif kind == b"C":
                code = self.run(payload, fd)
                self.control.send(b"D", code.to_bytes(4, "big"))
            elif kind == b"Q":
                self.control.send(b"S", payload[:4] + self.complete(payload[4:]))


Driver().loop()
