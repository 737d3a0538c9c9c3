"""What a task shows beside what it prints: its last value, `display()`, and figures of matplotlib.

Part of the language process's program (driver.rs). `MEDIA_MAX` comes from there: bytes that one item may have.
"""

import _ast
import builtins
import io
import os
import sys
import traceback

# Representations that a client can show, the best first (contracts: kernel 1.4).
RICH = (
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("text/html", "_repr_html_"),
)
BINARY = {"image/png", "image/jpeg"}
SUFFIXES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg", "text/html": "html"}
# Below it nothing can be made out in a figure.
DPI_MIN = 20


def compile_task(source, name):
    """The parts of a task's code, the last of which shows its value by `sys.displayhook`."""
    try:
        tree = compile(source, name, "exec", _ast.PyCF_ONLY_AST, True)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, _ast.Expr) and not is_quiet(source):
            tree.body.pop()
            rest = compile(tree, name, "exec", 0, True)
            return [rest, compile(_ast.Interactive([last]), name, "single", 0, True)]
    except RecursionError:
        pass  # Code that is nested so deep compiles all the same, but its tree cannot be looked at.
    return [compile(source, name, "exec", 0, True)]


def is_quiet(source):
    """Whether code ends with a semicolon."""
    if b";" not in source:
        return False
    import tokenize

    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.DEDENT, tokenize.ENDMARKER)
    last = ""
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token[0] not in silent:
                last = token[1]
    except (SyntaxError, tokenize.TokenError):
        pass
    return last == ";"


def ask_for(value, method, **options):
    """What a value says of itself. Only its class is asked whether it can: a class that is a value cannot,
    and objects that have every attribute one asks for mean nothing by it."""
    if not callable(getattr(type(value), method, None)):
        return None
    try:
        answer = getattr(value, method)(**options)
    except NotImplementedError:
        return None
    except Exception as error:
        # From where it left our own code on.
        traceback.print_exception(type(error), error, error.__traceback__.tb_next)
        return None
    # Data and metadata.
    return answer[0] if isinstance(answer, tuple) and answer else answer


def representation(value):
    """Type and data of the best representation that a client can show; none where only `repr` is left."""
    bundle = ask_for(value, "_repr_mimebundle_", include=None, exclude=None)
    if isinstance(bundle, dict):
        found = best_of(bundle)
        if found is not None:
            return found
    for kind, method in RICH:
        data = ask_for(value, method)
        if data is not None:
            return kind, data
    if isinstance(bundle, dict) and isinstance(bundle.get("text/plain"), str):
        return "text/plain", bundle["text/plain"]
    return None


def best_of(bundle):
    for kind, _ in RICH:
        if bundle.get(kind) is not None:
            return kind, bundle[kind]
    return None


def as_bytes(kind, data):
    """The content of a file with this representation. Bundles hold images as base64."""
    import binascii

    if kind in BINARY:
        return binascii.a2b_base64(data) if isinstance(data, str) else bytes(data)
    return (data if isinstance(data, str) else str(data)).encode("utf-8", "replace")


def as_payload(kind, content):
    """The letter of the frame, and the payload of the message (contracts: kernel 1.4)."""
    if kind == "text/html":
        return b"H", content
    import binascii
    import json

    if kind in BINARY:
        data = "data:%s;base64,%s" % (kind, binascii.b2a_base64(content, newline=False).decode())
    else:
        data = content.decode("utf-8", "replace")
    return b"M", json.dumps({"type": kind, "data": data}, ensure_ascii=False).encode("utf-8", "replace")


def size_of(count):
    return "%.1f MB" % (count / 1e6) if count >= 1e6 else "%d kB" % max(1, count // 1000)


def tell(text):
    sys.stderr.write("berth-runner: %s\n" % text)
    sys.stderr.flush()


class Display:
    """Shows values. `send(letter, payload)` is false where only text can be shown."""

    def __init__(self, send):
        self.send = send
        self.figures = Figures(self)
        self.files = 0
        sys.displayhook = self.hook

        def display(*values, raw=False, **_options):
            """Show values at once, each in its best form; with `raw`, dictionaries from media types to data."""
            for value in values:
                self.show(value, raw)

        display.__module__ = "builtins"
        builtins.display = display

    def hook(self, value):
        """`sys.displayhook`, until a task sets its own."""
        if value is None:
            return
        # As the interpreter's own hook does: whatever shows it may not see itself.
        builtins._ = None
        self.show(value)
        builtins._ = value

    def show(self, value, raw=False):
        if self.figures.is_figure(value):
            self.figures.show(value)
            return
        found = best_of(value) if raw and isinstance(value, dict) else representation(value)
        if found is not None and found[0] != "text/plain":
            try:
                content = as_bytes(*found)
            except Exception:
                traceback.print_exc()
            else:
                if self.media(found[0], content):
                    return
            found = None
        text = value.get("text/plain") if raw and isinstance(value, dict) else found and found[1]
        self.print(text if isinstance(text, str) else repr(value))

    def print(self, text):
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = getattr(sys.stdout, "encoding", None) or "ascii"
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.write("\n")

    def media(self, kind, content):
        """Sends an item; one that is too large becomes a file."""
        letter, payload = as_payload(kind, content)
        if len(payload) > MEDIA_MAX:
            self.keep(kind, content)
            return True
        return self.send(letter, payload)

    def keep(self, kind, content):
        what = "%s of %s" % (kind, size_of(len(content)))
        try:
            while True:
                self.files += 1
                path = os.path.abspath("display-%d.%s" % (self.files, SUFFIXES[kind]))
                try:
                    with open(path, "xb") as file:
                        file.write(content)
                    break
                except FileExistsError:
                    continue
        except OSError as error:
            tell("%s is too large to be shown, and could not be written to a file: %s" % (what, error))
        else:
            tell("%s is too large to be shown, so it was written to %s" % (what, path))


class Figures:
    """Figures of pyplot: shown by `show()` and at the end of a task, as notebooks do, and closed then.

    As an import hook it learns of pyplot's coming, so that the very code that imports it can call `show()`.
    Figures of another backend than Agg are none of our business.
    """

    PYPLOT = "matplotlib.pyplot"

    def __init__(self, display):
        self.display = display
        self.shown = {}
        self.pid = os.getpid()
        os.environ.setdefault("MPLBACKEND", "Agg")
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name != self.PYPLOT:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        load = getattr(spec.loader, "exec_module", None)
        if load is not None:

            def exec_module(module):
                load(module)
                if module.__name__ == self.PYPLOT:
                    self.hook_show(module)

            spec.loader.exec_module = exec_module
        return spec

    def hook_show(self, pyplot):
        original = pyplot.show

        def show(*arguments, **options):
            """Show all open figures and close them."""
            if self.are_ours():
                return self.show_all()
            return original(*arguments, **options)

        pyplot.show = show

    def are_ours(self):
        if os.getpid() != self.pid or not hasattr(sys.modules.get(self.PYPLOT), "close"):
            return False
        return sys.modules["matplotlib"].get_backend().lower() == "agg"

    def are_open(self):
        """Whether there is something for the end of a task to show."""
        pyplot = sys.modules.get(self.PYPLOT)
        return hasattr(pyplot, "close") and bool(pyplot.get_fignums()) and self.are_ours()

    def forget(self):
        """The task has ended: what it has displayed may be displayed again."""
        self.shown.clear()

    def show_all(self):
        pyplot = sys.modules[self.PYPLOT]
        try:
            for number in pyplot.get_fignums():
                self.show(pyplot.figure(number))
        finally:
            pyplot.close("all")

    def is_figure(self, value):
        module = sys.modules.get("matplotlib.figure")
        return isinstance(value, getattr(module, "Figure", ()))

    def show(self, figure):
        content = self.render(figure, "figure")
        # Displayed by the task before, and not changed since.
        if self.shown.get(id(figure), (None, None))[1] == content:
            return
        self.shown[id(figure)] = (figure, content)
        # Base64 makes four bytes of three.
        room = (MEDIA_MAX - 128) // 4 * 3
        dpi, smaller = float(figure.dpi), content
        while len(smaller) > room and dpi > DPI_MIN:
            dpi *= min(0.9, 0.95 * (room / len(smaller)) ** 0.5)
            smaller = self.render(figure, dpi)
        if smaller is not content and len(smaller) <= room:
            tell(
                "a figure of %s is too large to be shown, so it is shown with %d dpi instead of %d; "
                "savefig() writes the whole one" % (size_of(len(content)), dpi, figure.dpi)
            )
            content = smaller
        if not self.display.media("image/png", content):
            self.display.print(repr(figure))

    def render(self, figure, dpi):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()
