"""Whose an error is, and where: read off its traceback, in this one place for all
of decentral.

Frames are looked at from the innermost outwards. Those of Python, torch and other
libraries are nobody's; the first that stands in a file of a user, or in one of
decentral, decides. What decentral ships as plug-ins is its own. An error that comes
out of a library that was called for a part of the run (a model, an optimizer) is
that part's, if the part is no built-in one.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NoReturn

from decentral.errors import (
    PACKAGE,
    Bug,
    ConfigError,
    Place,
    PluginError,
    RunError,
    exit_place,
    in_words,
    refusal_of,
    write_trace,
)

Owner = Literal["user", "ours"]


#: Our modules that call parts of a run beside `ConfiguredPlugin`: a path within the
#: package, the kind of part, and whether they call libraries for it. Models are
#: told from losses by their frames.
_CALLERS = (
    ("gradients/autograd.py", "task", True),
    ("gradients/", "task", False),
    ("metrics/base.py", "task", True),
    ("metrics/", "task", False),
    ("merging/calibrate.py", "task", True),
    ("loop/models.py", "model", True),
    ("tasks/", "task", False),
    ("optim/base.py", "optimizer", True),
    ("optim/block_optimizer.py", "optimizer", True),
    ("topology/", "topology", False),
    ("mixing/", "weights", False),
    ("exchange/codec/", "codec", False),
    ("run/trackers.py", "tracker", False),
)
#: Our way to what libraries keep private: whoever takes it has called the part.
_DOOR = PACKAGE + "private.py"
#: Kinds whose plug-ins make something for the run from their settings, before it
#: begins.
_MAKERS = ("topology", "network", "optimizer", "task", "model", "split")


@dataclass(frozen=True)
class Verdict:
    """Who is to blame.

    ``kind`` is the kind of plug-in that was at work, where that can be told, and
    ``name`` what it is called, as far as its code says; ``caller`` the innermost
    place of the user's around a fault that is ours. ``outside``: the error came out
    of a library, called for a part of that kind.
    """

    owner: Owner
    place: Place
    kind: str = ""
    name: str = ""
    caller: Place | None = None
    outside: bool = False


# --- frames -----------------------------------------------------------------------


@cache
def _libraries() -> tuple[str, ...]:
    import site
    import sysconfig

    found = {
        sysconfig.get_path(name)
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    found |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(path + os.sep for path in found)


#: Folders of installed packages that were named as plug-ins, which makes them a
#: user's, and files of single modules.
_adopted: set[str] = set()


def adopt(target: Any) -> None:
    """Take the package of an installed plug-in for a user's: its errors are its
    own.
    """
    module = str(getattr(target, "__module__", ""))
    for name in (module.partition(".")[0], module):  # a namespace package has no file
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            folder, base = os.path.split(file)
            _adopted.add(folder + os.sep if base == "__init__.py" else file)
            return


def owner_of(frame: FrameType) -> Owner | None:
    """Return whose a frame is; None: that of a library."""
    file = frame.f_code.co_filename
    if file.startswith(PACKAGE):
        return "ours"
    if file.startswith("<"):  # generated, unless somebody is typing
        return "user" if frame.f_globals.get("__name__") == "__main__" else None
    if file.startswith(tuple(_adopted)):
        return "user"
    library = file.startswith(_libraries()) or f"{os.sep}site-packages{os.sep}" in file
    return None if library else "user"


@dataclass(frozen=True)
class _Step:
    """A frame of a traceback, and where it stands."""

    frame: FrameType
    line: int

    @property
    def place(self) -> Place:
        return Place(self.frame.f_code.co_filename, self.line)


def _steps(error: BaseException) -> list[_Step]:
    """Return the frames of a traceback, the innermost first."""
    found = [_Step(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return found[::-1]


def users_place(error: BaseException) -> Place | None:
    """Return the innermost place in a file of the user's, whoever raised the error."""
    if isinstance(error, SyntaxError) and error.filename:
        return Place(error.filename, error.lineno or 0)
    return next((s.place for s in _steps(error) if owner_of(s.frame) == "user"), None)


# --- the judgment -----------------------------------------------------------------


def judge(error: BaseException) -> Verdict | None:
    """Return who is to blame for an error; None where no frame is anybody's.

    Libraries wrap what they are given: of an error that they raised, the cause
    counts, too.
    """
    verdict = _judge(_steps(error))
    cause = error.__cause__
    if cause is not None and (
        verdict is None or (verdict.owner == "ours" and verdict.outside)
    ):
        deeper = judge(cause)
        if deeper is not None and deeper.owner == "user":
            return deeper
    return verdict


def _judge(steps: Sequence[_Step]) -> Verdict | None:
    owners = [owner_of(step.frame) for step in steps]
    first = next((at for at, owner in enumerate(owners) if owner), None)
    if first is None:
        return None
    place = steps[first].place
    if owners[first] == "user":
        ours = next(
            (at for at, owner in enumerate(owners) if owner == "ours"), len(steps)
        )
        kind, name, _ = _part(steps[first:ours], steps[ours:])
        return Verdict("user", place, kind, name)
    kind, name, outside = _part(steps[:first], steps[first:])
    users = (
        step.place for step, owner in zip(steps, owners, strict=True) if owner == "user"
    )
    return Verdict("ours", place, kind, name, next(users, None), bool(first) and outside)


def _part(inner: Sequence[_Step], outer: Sequence[_Step]) -> tuple[str, str, bool]:
    """Return the kind and name of what our frame, the first of ``outer``, had
    called.

    Also whether it calls libraries for such a part.
    """
    callers = (step.frame for step in outer if step.frame.f_code.co_filename != _DOOR)
    frame = next(callers, None) if inner else None
    if frame is None:
        return "", "", False
    plugin = getattr(frame.f_locals.get("self"), "plugin", None)
    if plugin is not None and frame.f_code.co_name == "__call__":
        return plugin.kind, plugin.name, False
    path = frame.f_code.co_filename.removeprefix(PACKAGE).replace(os.sep, "/")
    found = ((kind, calls) for start, kind, calls in _CALLERS if path.startswith(start))
    kind, calls = next(found, ("", False))
    if kind == "task" and (model := _model(inner)):
        return "model", model, calls
    return kind, inner[0].frame.f_code.co_name, calls


def _model(steps: Sequence[_Step]) -> str:
    """Return the class of the innermost module of torch that is at work; none:
    empty.
    """
    torch = sys.modules.get("torch")
    owners = (step.frame.f_locals.get("self") for step in steps if torch)
    found = (type(each).__name__ for each in owners if isinstance(each, torch.nn.Module))  # pyright: ignore[reportOptionalMemberAccess]
    return next(found, "")


def words_and_place(error: BaseException, most: int = 300) -> str:
    """Return an exception as one line, with where a user's code has raised it or
    led to it.
    """
    place, words = users_place(error), in_words(error, most)
    return f"{words}, {place}" if place else words


def own_error(error: Exception | SystemExit, plugin: Any) -> ConfigError | None:
    """Return what a plug-in raised as its own error; None where it is another's.

    The traceback begins at what called the plug-in: only the plug-in's frames may
    lie within. Of our own plug-ins only what a library refuses counts, since that
    follows from their settings.

    Args:
        error: What came out of the call.
        plugin: The plug-in, with its kind, name and target.
    """
    kind, name = plugin.kind, plugin.name
    if isinstance(error, SystemExit):  # or a run would end with status 0
        return ConfigError(
            f"{kind} {name!r}: {exit_place(error)}; let it raise an error."
        )
    if isinstance(error, ConfigError):
        return _find_refusal(error, plugin)
    verdict = judge(error)
    if verdict is None:
        return None
    if verdict.owner == "ours":
        own = _refuses(error, plugin) or _is_of_library(error, plugin)
        return PluginError(kind, name, in_words(error), None) if own else None
    if (verdict.kind, verdict.name) != (kind, name):
        return None
    return PluginError(kind, name, in_words(error), verdict.place)


def _find_refusal(error: ConfigError, plugin: Any) -> ConfigError | None:
    """Return what we refuse within a user's maker, such as samples, with its name
    and line.
    """
    steps, place = _steps(error), users_place(error)
    ours = bool(steps) and owner_of(steps[0].frame) == "ours"
    users = not str(plugin.target.__module__).startswith("decentral.")
    if (
        not (ours and users and place and plugin.kind in _MAKERS)
        or type(error) is not ConfigError
    ):
        return None
    text = str(error).removeprefix(f"{plugin.kind}: ")
    return ConfigError(f"{plugin.kind} {plugin.name!r} ({place}): {text}")


def _refuses(error: Exception, plugin: Any) -> bool:
    """Whether a library that one of our plug-ins calls itself refuses the values it
    was given.

    So networkx does with a degree that no graph has, and torch with options that
    exclude each other: what plug-ins that make something hand on is what their
    settings say.
    """
    steps = _steps(error)
    first = next((at for at, step in enumerate(steps) if owner_of(step.frame)), 0)
    value = isinstance(error, ValueError) or type(error).__module__.startswith("networkx")
    code = getattr(plugin.target, "__code__", None)
    return (
        plugin.kind in _MAKERS
        and value
        and first > 0
        and steps[first].frame.f_code is code
    )


def _is_of_library(error: Exception, plugin: Any) -> bool:
    """Whether a plug-in is something of a library's, such as a module of torch, and has
    raised an error itself: between it and its call no frame is anybody's.
    """
    module = str(getattr(plugin.target, "__module__", "") or "")
    ours = module.partition(".")[0] == Path(PACKAGE).name
    return not ours and not any(owner_of(step.frame) for step in _steps(error)[:-1])


@contextmanager
def library(kind: str, name: str) -> Generator[None]:
    """Name a plug-in that stands for a library: what is raised within is about its
    settings.

    Args:
        kind: Kind of the plug-in.
        name: Its name.
    """
    try:
        yield
    except (ConfigError, RunError):
        raise
    except Exception as error:
        raise PluginError(kind, name, in_words(error), users_place(error)) from error


def attribute(
    error: BaseException, users: Mapping[str, str] | None = None
) -> BaseException:
    """Return any error as one for users, which says whose it is and where.

    What comes from a caller's own code, such as a function that is told of the rows
    of a run, stays what it is.

    Args:
        error: What was raised.
        users: The parts of the run that are no built-in ones, by kind: what they
            are called.
    """
    if isinstance(error, SystemExit):  # or a run would end without a word
        return RunError(f"{exit_place(error)}; let it raise an error.")
    if isinstance(error, ConfigError | RunError) or not isinstance(error, Exception):
        return error
    if refusal := refusal_of(error):
        return RunError(refusal)
    verdict, users = judge(error), users or {}
    if verdict is not None:
        named = users.get(verdict.kind, "")
        if verdict.owner == "user":
            if not verdict.kind:  # no plug-in, but who called us, or wanted to be told
                return error
            return PluginError(
                verdict.kind, named or verdict.name, in_words(error), verdict.place
            )
        if verdict.outside and (part := _foreign(verdict, users)):
            return PluginError(part, users[part], in_words(error), None)
    return bug(error, verdict)


def explain(error: BaseException, folder: Path | None = None) -> str:
    """Return in words whose an error is; of a fault of ours the traceback is kept,
    too.

    Args:
        error: What was raised.
        folder: The run folder, if there is one.
    """
    found = attribute(error)
    if isinstance(found, Bug):
        return str(write_trace(found, folder))
    return str(found) if isinstance(found, ConfigError | RunError) else in_words(found)


def reraise(
    error: Exception | SystemExit, users: Mapping[str, str] | None = None
) -> NoReturn:
    """Raise an error again, as one that says whose it is; ``users`` are as for
    `attribute`.
    """
    found = attribute(error, users)
    if found is error:
        raise error
    raise found from error


def _foreign(verdict: Verdict, users: Mapping[str, str]) -> str:
    """Return the kind of a part for which a library was called, if that part is the
    user's.
    """
    asked = {"task": ("task", "model"), "model": ("model", "task")}
    return next(
        (kind for kind in asked.get(verdict.kind, (verdict.kind,)) if kind in users), ""
    )


# --- faults of ours ---------------------------------------------------------------


def bug(error: Exception, verdict: Verdict | None) -> Bug:
    """Return an error as a fault of ours, with its whole traceback."""
    trace = "".join(traceback.format_exception(error))
    place, caller = (verdict.place, verdict.caller) if verdict else (None, None)
    return Bug(in_words(error), place, caller, trace)
