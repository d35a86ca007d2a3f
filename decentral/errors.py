"""What decentral says when something is wrong: one clear line with a remedy."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LISTED = 40
#: Characters that do something to a terminal, those that turn the direction of
#: writing included.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

#: Where all code of decentral lies.
PACKAGE = os.path.dirname(__file__) + os.sep


class ConfigError(ValueError):
    """A mistake in what the user asked for; the command line exits with status 2."""


class RunError(RuntimeError):
    """A run that had begun and failed; the command line exits with status 1."""


class Interrupted(RunError):
    """A run that its user has stopped; nothing is lost."""


@dataclass(frozen=True)
class Place:
    """A line of a file, written in the shortest way that finds it from here."""

    file: str
    line: int

    def __str__(self) -> str:
        """Return ``file:line``."""
        if self.file.startswith(PACKAGE):
            inside = Path(PACKAGE).name, *Path(self.file.removeprefix(PACKAGE)).parts
            return f"{'/'.join(inside)}:{self.line}"
        shown = self.file
        with suppress(ValueError, OSError):  # another drive, or a folder that is gone
            shown = min(shown, os.path.relpath(shown), key=len)
        return f"{shown if os.path.isabs(self.file) else self.file}:{self.line}"


class PluginError(ConfigError):
    """What a user's plug-in raised: its kind and name, the exception in words, and
    its place.
    """

    def __init__(self, kind: str, name: str, said: str, place: Place | None) -> None:
        """Say what was raised, by whom, and where; ``place`` is None within a
        library.
        """
        where = f" ({place})" if place else ""
        super().__init__(f"{kind} {name!r} raised {said}{where}.")
        self.kind, self.name, self.said, self.place = kind, name, said, place

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as what it was made of."""
        return PluginError, (self.kind, self.name, self.said, self.place)


class Bug(RunError):
    """A fault of decentral's own."""

    def __init__(
        self,
        said: str,
        place: Place | None,
        caller: Place | None = None,
        trace: str = "",
        file: Path | None = None,
    ) -> None:
        """Say what happened and where.

        Args:
            said: The exception in words.
            place: Where in decentral.
            caller: The innermost place in a file of the user's that led there.
            trace: The whole traceback.
            file: Where that was written.
        """
        where = ", called from ".join(str(each) for each in (place, caller) if each)
        super().__init__(
            f"this is a bug in decentral: {said}{f' ({where})' if where else ''}"
            f"{f'; the traceback is in {file}' if file else ''}."
        )
        self.said, self.place, self.caller, self.trace, self.file = (
            said,
            place,
            caller,
            trace,
            file,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as what it was made of."""
        return Bug, (self.said, self.place, self.caller, self.trace, self.file)


def shell_word(path: str | Path) -> str:
    """Return a path as a command that is printed has it, so that it can be pasted.

    >>> shell_word("runs/a"), shell_word("my run, [1]")
    ('runs/a', "'my run, [1]'")
    """
    return shlex.quote(str(path))


def visible(text: str) -> str:
    r"""Return a text with its control characters written out: what comes from
    elsewhere must not move the cursor, colour the screen or hide a line.

    >>> visible("ring\x1b[31m"), visible("über")
    ('ring\\x1b[31m', 'über')
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def show(value: object) -> str:
    """Return what an object says of itself; of one that fails in that, its type."""
    try:
        return f"{value}"
    except Exception:  # of somebody's own class, or a number of thousands of digits
        return f"<{type(value).__name__}>"


def shorten(text: str, most: int = 200) -> str:
    """Return a text as a message quotes it: its beginning, where it is long.

    >>> shorten("ring"), shorten("r" * 1000, 4)
    ('ring', 'rrrr...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


def exit_place(error: SystemExit) -> str:
    """Return what called ``exit``, and where: an end of the program that nobody has
    asked for.
    """
    trace, place = error.__traceback__, "something"
    while trace is not None:
        code = trace.tb_frame.f_code
        # of frozen modules, such as exit() itself
        if not code.co_filename.startswith("<"):
            place = str(Place(code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return f"{place} called exit({'' if error.code is None else repr(error.code)})"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string.

    >>> nearest("rng", ["ring", "star"])
    " Did you mean 'ring'?"
    """
    spelled = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), list(spelled), n=1, cutoff=0.5)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""


def install_command(extra: str) -> str:
    """Return the command that installs what an extra brings, for how decentral is
    installed here: with the versions of a checkout, where it is one.

    Args:
        extra: Name of the extra.
    """
    checkout = Path(__file__).parents[1] / "constraints.txt"
    if checkout.is_file():
        return f"pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install 'decentral[{extra}]'"


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that nobody registered, with the nearest one that
    exists.

    Args:
        kind: What it should be: a setting, a kind of plug-in.
        name: The name given.
        known: The names that there are.
    """
    names, name = sorted(known), shorten(name)
    offer = ", ".join(names) if len(names) <= _LISTED else f"{len(names)} names"
    return ConfigError(
        f"unknown {kind} {name!r}.{nearest(name, names)} Available: {offer}."
    )


#: What pydantic complains about, in the words of a user; in braces, what the
#: complaint holds.
_REASONS = {
    "dict_type": "it must be a mapping",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "finite_number": "it must be a finite number",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "greater_than": "it must be above {gt:g}",
    "greater_than_equal": "it must be at least {ge:g}",
    "int_from_float": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_type": "it must be a whole number",
    "less_than": "it must be below {lt:g}",
    "less_than_equal": "it must be at most {le:,.13g}",
    "literal_error": "it must be {expected}",
    "string_type": "it must be text",
}


def reason(error: Any) -> str:
    """Return the first complaint of a pydantic ``ValidationError`` as one plain
    sentence.
    """
    return complaint(error.errors()[0])


def complaint(one: Mapping[str, Any]) -> str:
    """Return one complaint of pydantic as a plain sentence."""
    said = _REASONS.get(one["type"])
    if said is not None:
        return said.format(**one.get("ctx", {})) + "."
    text = str(one["msg"]).removeprefix("Value error, ")
    text = text[0].lower() + text[1:] if text[:2] != text[:2].upper() else text
    return text if text.endswith(".") else f"{text}."


# --- in words ---------------------------------------------------------------------

#: The file of a run folder that holds the traceback of a fault of ours.
TRACEBACK = "traceback.txt"
#: What a machine refuses: room, memory, files, rights. No program is at fault.
_REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
)


def in_words(error: BaseException, most: int = 300) -> str:
    """Return an exception as one line: its type and at most so many letters of its
    text.
    """
    # its place is told apart
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(said.split())
    text = f"{text[:most]}..." if len(text) > most else text.rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def refusal_of(error: BaseException) -> str:
    """Say what the machine has refused, room or memory, if that is what went wrong."""
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "can't allocate memory" in str(error):
        said = " ".join(str(error).split())[:200].rstrip(".")
        return f"out of memory{f' ({said})' if said else ''}; use fewer nodes, or a smaller batch."
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"{error}."
    return ""


def worker_error(error: BaseException, trace: str) -> RunError:
    """Return what was raised in a process that runs nothing but our code there.

    Args:
        error: What was raised, without its traceback.
        trace: The traceback, as that process has written it.
    """
    if refusal := refusal_of(error):
        return RunError(refusal)
    if isinstance(error, ImportError) and error.name:  # a user's object names its module
        return RunError(
            f"a worker cannot import {error.name!r}; install it on every host, or give what is "
            "needed of it as FILE.py:FUNCTION."
        )
    return Bug(in_words(error), None, None, trace)


def write_trace(found: Bug, folder: Path | None = None) -> Bug:
    """Write the traceback of a fault of ours into a run folder, else a temporary
    file; name it.
    """
    if found.file is not None:
        return found
    file: Path | None = None
    with suppress(OSError):  # a full disk may be why
        if folder is None:
            handle, path = tempfile.mkstemp(prefix="decentral-traceback-", suffix=".txt")
            os.close(handle)
            file = Path(path)
        else:
            file = folder / TRACEBACK
        file.write_text(found.trace, encoding="utf-8")
    return Bug(found.said, found.place, found.caller, found.trace, file)
