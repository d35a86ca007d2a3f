"""Whose code runs: a run folder from somebody else is data until its code is trusted.

A Python file, or a module with a dotted name, that the configuration of a run folder
names runs only where the user has named it too, where it is what this user has run
before, or where its digest was given by ``--trust``. What was run is recorded by
digest in ``decentral/trusted`` below ``XDG_STATE_HOME``, and in the file that
``DECENTRAL_TRUST`` names. All else is the user's own: the command line, Python, and
configurations outside of run folders.

Workers are new processes that have read no run folder: what the driver has loaded
before it started them, they load too.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from decentral.errors import ConfigError

#: Packages whose members any configuration may name.
PACKAGES = ("torch.optim", "pytorch_optimizer", "schedulefree", "transformers")
#: Characters of a digest that are shown, and the fewest that say which is meant.
SHORT = 12
#: The most of a record that is read: tens of thousands of digests.
_RECORD_BYTES = 8 << 20
#: A text of the user's in which names are looked for, at the most.
_LONGEST = 4096
_HEX = re.compile(rf"[0-9a-f]{{{SHORT},64}}")
#: How names of files and of members of modules end in a text, and what stands before.
_FILE = re.compile(r"\.(?:py|ya?ml)\b|$")
_DOTTED = re.compile(r"(?<=\w)\b")
_BEFORE = re.compile(r"[\s=,;(\[{'\":]")
#: What a run writes; a folder that holds one of these is that of a run.
_OF_RUN = ("metrics.jsonl", "events.jsonl", "checkpoints", "merged.safetensors")

#: Every text that was read from a run folder, and every one that the user has said.
_read: set[str] = set()
_said: set[str] = set()
#: Digests that the user of this process trusts, or how they begin; and by digest the
#: names of what was loaded.
_trusted: set[str] = set()
_loaded: dict[str, str] = {}


def read_from(source: str | Path, settings: Any) -> None:
    """Take settings as somebody else's where the file they stand in is of a run, or
    named by one; as the user's elsewhere.

    Args:
        source: The file.
        settings: What it holds.
    """
    # as written and with links followed: neither way out of a run folder counts
    spellings = {os.path.abspath(source), os.path.realpath(source)}
    of_run = any(_is_run(folder) for one in spellings for folder in Path(one).parents)
    if not of_run and not _is_foreign(str(source)):
        say(settings)
        return
    for text in _texts(settings):
        _read.add(text)
        if "\\" in text:  # a quoted text within may be escaped
            with suppress(UnicodeDecodeError):
                _read.add(text.encode().decode("unicode_escape"))


def say(*values: Any) -> None:
    """Take what the user has written, be it words of a command or arguments of
    Python's.
    """
    _said.update(_texts(values))


def trust(what: str | Path) -> None:
    """Let code run that the configuration of a run folder names.

    Args:
        what: The digest that the refusal shows, or more of it.

    Raises:
        ConfigError: It is no digest.
    """
    if not _HEX.fullmatch(str(what)):
        raise ConfigError(
            f"--trust {what} is no digest; give what the refusal shows, {SHORT} characters or "
            "more of a SHA-256."
        )
    _trusted.add(str(what))


def check_file(path: str, files: Mapping[str, bytes]) -> bool:
    """Raise ConfigError for a Python file that only a run folder has named.

    Returns whether its digest alone let it run: then nothing else may come with it.

    Args:
        path: The file as it was named.
        files: Its content and that of all it imports, by path, itself first.
    """
    digest, foreign = digest_of(list(files.values())), _is_foreign(path)
    if foreign and not is_trusted(digest):
        others = len(files) - 1
        with_them = f", with {others} that it imports," if others else ""
        raise ConfigError(_refusal(f"plug-in file {path}{with_them}", digest))
    _loaded[digest] = path
    return foreign


def check_other(path: str, content: bytes, closed: bool) -> None:
    """Raise ConfigError for a file that a plug-in file imports in a way that is not
    seen before it runs.

    Args:
        path: The file.
        content: Its content.
        closed: Whether only its digest can let it run.
    """
    digest = digest_of([content])
    if closed and not is_trusted(digest):
        raise ConfigError(_refusal(f"file {path}", digest))
    _loaded[digest] = path


def check_module(name: str) -> None:
    """Raise ConfigError for a member of a module that only a run folder has named;
    nothing is imported.
    """
    module = name.rpartition(".")[0]
    files = _files_of(module)
    digest = digest_of([file.read_bytes() for file in files])
    foreign = any(name in text for text in _read) and name not in _said_names(_DOTTED)
    if foreign and not _is_listed(module, files):
        if not files:
            raise ConfigError(
                f"{name} is named by a run folder only, and there is no file of {module} to "
                "trust; name it yourself, or install its package."
            )
        if not is_trusted(digest):
            raise ConfigError(_refusal(f"module {module} in {files[-1]}", digest))
    if files:
        _loaded[digest] = name


def is_trusted(digest: str) -> bool:
    """Whether the user has run code of this digest before, or has given it."""
    return any(digest.startswith(one) for one in _trusted) or digest in _recorded()


def record() -> None:
    """Remember all code that was loaded: the user has begun a run with it.

    Where nothing can be written it is known until this process ends.
    """
    new = {k: v for k, v in _loaded.items() if k not in _recorded()}
    _trusted.update(new)
    lines = [f"{k}  {v.encode('unicode_escape').decode()}\n" for k, v in new.items()]
    for file in _records() if lines else ():
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write("".join(lines))


def digest_of(contents: Sequence[bytes]) -> str:
    """Return the digest of a file, as ``sha256sum`` has it, or of several in order."""
    each = [hashlib.sha256(one).hexdigest() for one in contents]
    return (
        each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()
    )


def _refusal(what: str, digest: str) -> str:
    return (
        f"{what} (sha256 {digest[:SHORT]}) is named by a run folder, not by you, and would run; "
        f"read it, then allow it by --trust {digest[:SHORT]} "
        f"(in Python decentral.trust({digest[:SHORT]!r}))."
    )


@contextmanager
def command(words: Sequence[str]) -> Generator[list[str]]:
    """Take the words of a command as the user's, until it ends; yield them without
    ``--trust``.

    Folders say nothing: their names may be somebody else's.
    """
    kept = [set(one) for one in (_read, _said, _trusted)]
    left: list[str] = []
    digests: list[str] = []
    try:
        given = iter(words)
        for word in given:
            flag, equals, value = word.partition("=")
            if flag == "--trust":
                digests.append(value if equals else next(given, ""))
            else:
                left.append(word)
        for digest in digests:
            trust(digest)
        say([word for word in left if "\0" in word or not os.path.isdir(word)])
        yield left
    finally:
        for now, before in zip((_read, _said, _trusted), kept, strict=True):
            now.clear()
            now.update(before)


def _records() -> list[Path]:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    given = os.environ.get("DECENTRAL_TRUST")
    return [*([Path(given)] if given else []), Path(state, "decentral", "trusted")]


def _recorded() -> set[str]:
    found: set[str] = set()
    for file in _records():
        with suppress(OSError):
            if file.is_file():
                with file.open("rb") as opened:
                    text = opened.read(_RECORD_BYTES).decode("utf-8", errors="replace")
                found |= {line[:64] for line in text.splitlines()}
    return found


def _is_listed(module: str, files: Sequence[Path]) -> bool:
    """Whether a module is of a package that all may name, and is none that lies in the
    present folder under its name.
    """
    listed = any(module == one or module.startswith(f"{one}.") for one in PACKAGES)
    here = os.path.realpath(os.getcwd()) + os.sep
    # an environment below the present folder is no module that lies there
    return listed and not any(
        os.path.realpath(file).startswith(here) and "site-packages" not in file.parts
        for file in files
    )


def _files_of(module: str) -> list[Path]:
    """Return the files that importing a module would run, outermost first."""
    files: list[Path] = []
    folders: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), folders)
        if spec is None:
            return []
        if spec.origin and os.path.isfile(spec.origin):
            files.append(Path(spec.origin))
        folders = list(spec.submodule_search_locations or [])
    return files


def _is_foreign(path: str) -> bool:
    """Whether a run folder names a file, however it spells the folder, and the user
    does not.
    """
    name = os.path.basename(path)
    if not any(name in text for text in _read):
        return False
    whole = os.path.realpath(os.path.expanduser(path))
    return whole not in {
        os.path.realpath(os.path.expanduser(one))
        for one in _said_names(_FILE)
        if "\0" not in one
    }


def _said_names(form: re.Pattern[str]) -> set[str]:
    """Return what of the user's words may be a name: ends with a match, begins at
    the beginning or behind punctuation.
    """
    found: set[str] = set()
    for text in (one for one in _said if len(one) <= _LONGEST):
        for end in (match.end() for match in form.finditer(text)):
            starts = [match.end() for match in _BEFORE.finditer(text, 0, end)]
            found |= {text[start:end].strip() for start in (0, *starts)}
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _texts(one)
    elif hasattr(value, "args") and hasattr(value, "settings"):  # a Spec
        yield from _texts([value.name, *value.args, value.settings])


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, be it in parts."""
    if any(os.path.lexists(folder / name) for name in _OF_RUN):
        return True
    with suppress(OSError):
        if (folder / "config.yaml").is_file():
            with (folder / "config.yaml").open("rb") as file:
                return file.read(15) == b"# decentral run"
    return False
