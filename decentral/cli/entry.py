"""Where the command line is entered, and left: exit status, and what went wrong in
a line or two.

Only this package imports typer and rich, and it imports nothing else before a
command needs it.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from io import TextIOWrapper
from typing import Any

from decentral.cli.options import COMPLETE
from decentral.errors import (
    Bug,
    ConfigError,
    exit_place,
    nearest,
    visible,
)
from decentral.limits import spin_briefly

FAILED, MISTAKEN = 1, 2
#: Characters of either end of a message that quotes something endless.
_SHOWN = 700


def main() -> None:
    """Run the command line and leave with its exit status: the console script."""
    # Tens of thousands of objects are made by imports and none is garbage: looking
    # for cycles among them, now and again at the exit, would take 1.5 s of a run.
    # Training turns it on again.
    gc.disable()
    spin_briefly()
    status = run(sys.argv[1:])
    gc.freeze()
    if status and _rank() is not None:
        # A worker's thread may be in the midst of a step: the interpreter would end it
        # within C++, which aborts the process, with a line of its own.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _rank() -> int | None:
    """Return which of several this process is, if a launcher has started them."""
    from decentral.engines.ranks import ranks_of

    ranks = ranks_of()
    return None if ranks is None else ranks.rank


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit status: 0, 1 (it failed) or 2 (the user's
    mistake).
    """
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Terminals without UTF-8 show a question mark instead of ending the
            # command.
            stream.reconfigure(errors="replace")
    try:
        _invoke(list(words))
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. The interpreter flushes at the exit and must find
        # an open file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return _explain(error, words)
    return 0


def _open_streams() -> None:
    """Let what is printed go nowhere where a descriptor was closed, and not into the
    first file that is opened, which would get its number.
    """
    for handle, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if handle else "r"))  # noqa: SIM115


@cache
def _command() -> Any:
    from typer.main import get_command

    from decentral.cli.app import app

    return get_command(app)


def _invoke(words: list[str]) -> None:
    import typer

    try:
        command = _command()
        if asked := os.environ.get(COMPLETE):
            from typer import completion

            completion.completion_init()  # pyright: ignore[reportPrivateImportUsage]
            completion.shell_complete(command, {}, "decentral", COMPLETE, asked)
            return
        with command.make_context("decentral", words) as context:
            command.invoke(context)
    except typer.Exit:  # --help and --version
        pass


def _explain(error: BaseException, words: Sequence[str]) -> int:
    """Print what went wrong on stderr, in one or two lines, and return the exit
    status.
    """
    if "--debug" in words:
        traceback.print_exception(error)
    if isinstance(error, SystemExit):  # no command ends so
        return _fail(
            FAILED, f"{exit_place(error)} in the midst of the command; let it raise."
        )
    if isinstance(error, KeyboardInterrupt):
        # A terminal interrupts all ranks, and the first speaks for them.
        return FAILED if _rank() else _fail(FAILED, "interrupted.")
    # typer's own, whatever its version calls their class
    if hasattr(error, "format_message"):
        return _fail(MISTAKEN, *_usage(error, words))
    return _explain_other(error)


def _explain_other(error: BaseException) -> int:
    """Say whose an error is that nobody has foreseen."""
    from decentral.blame import attribute, explain
    from decentral.errors import write_trace

    found = attribute(error)
    if isinstance(found, Bug):
        return _fail(FAILED, str(write_trace(found)), "Please report it, with that file.")
    said = explain(found)
    if not isinstance(found, ConfigError):
        return _fail(FAILED, said)
    return _fail(MISTAKEN, said, _page_text(said))


def _page_text(message: str) -> str:
    """Name the page that helps with a mistake to a person; what programs read stays
    one line.
    """
    if not sys.stderr.isatty():
        return ""
    from decentral.cli.explaining import command_of, page_of

    page = page_of(message)
    return f"See `{command_of(page)}`." if page else ""


def _fail(status: int, message: str, remedy: str = "") -> int:
    label = "\033[1;31merror:\033[0m" if _has_colour() else "error:"
    said = visible(" ".join(message.split()))
    if len(said) > 2 * _SHOWN:  # the remedy stands at the end
        said = f"{said[:_SHOWN]} ... {said[-_SHOWN:]}"
    lines = [f"{label} {said}", *([visible(remedy)] if remedy else [])]
    print("\n".join(lines), file=sys.stderr)
    return status


def _has_colour() -> bool:
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ


def _usage(error: Any, words: Sequence[str]) -> tuple[str, str]:
    """Return what is wrong with the words of a command, and where to read about it."""
    message = str(error.format_message())
    option = getattr(error, "option_name", None)
    if option and message.startswith("No such option"):
        message = f"No such option: {option}.{_suggest(option, error, words)}"
    context = getattr(error, "ctx", None)
    if "extra argument" in message and context:
        message += "." + _suggest_flag(message, context)
    path = context.command_path if context else f"decentral {words[0]}"
    return message[0].lower() + message[1:], f"`{path} --help` shows what there is."


def _suggest_flag(message: str, context: Any) -> str:
    """Return the flag that is meant by ``weights=lazy`` where a command takes no such
    words.
    """
    found = re.search(r"\((\w+)=(\S*?)[ )]", message)
    flags = {name for one in context.command.params for name in one.opts}
    if found is None or (flag := f"--{found[1].replace('_', '-')}") not in flags:
        return ""
    return f" Here it is a flag: write {flag} {shlex.quote(found[2])}."


def _suggest(option: str, error: Any, words: Sequence[str]) -> str:
    """Return what a word with dashes should be: a setting, or the nearest flag."""
    from decentral.config import ALIASES, Config

    key = option.lstrip("-").replace("-", "_")
    takes = any(each.name in ("words", "settings") for each in error.ctx.command.params)
    if takes and key.partition(".")[0] in {*Config.model_fields, *ALIASES}:
        place = next(
            (k for k, word in enumerate(words) if word.partition("=")[0] == option), -1
        )
        _, equals, value = words[place].partition("=")
        following = words[place + 1] if len(words) > place + 1 else ""
        value = value if equals else following if not following.startswith("-") else ""
        written = shlex.quote(f"{key}={value or 'VALUE'}")
        return f" It is a setting without a flag: write {written}."
    known = [name.lstrip("-") for name in error.possibilities or ()]
    return nearest(option.lstrip("-"), known).replace("'", "'--", 1)
