"""Completions for the code before a cursor, from the names that earlier code has made.

Part of the language process's program (driver.rs).
"""

import re

SUGGESTIONS_MAX = 200


def cursor_of(request):
    """Code before and after the cursor.

    `code` ends at the cursor and `post` follows it; a client that sends the whole code instead says by `row`
    and `col` where its cursor is, and `line` proves that they are meant so.
    """
    code, post = str(request.get("code") or ""), str(request.get("post") or "")
    row, column, line = request.get("row"), request.get("col"), request.get("line")
    lines = code.split("\n")
    if not post and isinstance(row, int) and isinstance(column, int) and 0 <= row < len(lines):
        if line == lines[row] and 0 <= column <= len(line):
            before = "\n".join(lines[:row] + [line[:column]])
            return before, code[len(before) :]
    return code, post


def suggestions(request, namespace):
    """Whole words, dots included, that could stand where the word before the cursor stands."""
    before, after = cursor_of(request)
    word = re.search(r"[\w.]*$", before).group()
    try:
        found = by_jedi(before, after, word, namespace)
    except Exception:
        found = by_names(word, namespace)
    return list(dict.fromkeys(found))[:SUGGESTIONS_MAX]


def by_jedi(before, after, word, namespace):
    import jedi

    lines = before.split("\n")
    interpreter = jedi.Interpreter(before + after, [namespace])
    stem = word[: word.rfind(".") + 1]
    found = [stem + one.name for one in interpreter.complete(len(lines), len(lines[-1]))]
    # It is generous with capital letters.
    return [name for name in found if name.startswith(word)]


def by_names(word, namespace):
    import rlcompleter

    completer = rlcompleter.Completer(namespace)
    found = []
    # Some come twice.
    while word and len(found) < 2 * SUGGESTIONS_MAX:
        suggestion = completer.complete(word, len(found))
        if suggestion is None:
            break
        # It adds what may follow: a bracket, a colon, a space.
        found.append(suggestion.rstrip("(): "))
    return found
