"""Which code a configuration names: plug-in files and modules, found without
running any.

No reader of settings finds more than is found here: what may be the path of a file
that is there counts, wherever it stands in a text.

A digest is that of the file, as ``sha256sum`` has it; if it imports files beside or
below it, that of the lines of ``sha256sum`` for all of them, from its folder. Code
that imports by other means than the statement counts with all Python files beside
it and one folder below.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from decentral.errors import ConfigError
from decentral.limits import digest_of_file
from decentral.plugins import ConfiguredPlugin
from decentral.spec import Spec, parse_spec
from decentral.userfile import lies, place_of, resolve_path, sources

#: Packages whose members any configuration may name.
PACKAGES = ("torch.optim", "pytorch_optimizer", "schedulefree", "transformers")

#: How the path of a plug-in file ends where it is run, and where it is named.
_RUN_END, _NAMED_END = re.compile(r"\.py(?=:)"), re.compile(r"\.py(?=:|$)")
#: What may stand before a path within a text.
_BEFORE = re.compile(r"[\s=,;:|(\[{'\"]")
#: Begun at the beginning of a word only: an endless one would be read again from
#: each of its letters.
_DOTTED = re.compile(r"(?<!\w)[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
#: The longest path that can be opened.
_LONGEST = 4096
#: How a file imports in a way that is not seen without running it.
_HIDDEN = re.compile(rb"__import__|importlib|runpy|pkgutil|sys\.path|\bexec\b|\beval\b")


@dataclass(frozen=True)
class Code:
    """A plug-in file with what it imports, or a module with what holds it.

    ``name`` is its whole path, or the dotted name; ``files`` are digests by path.
    """

    name: str
    text: str
    files: Mapping[str, str]
    digest: str


def code_in(settings: Mapping[str, Any]) -> list[Code]:
    """Return all code that settings name, but what all may name."""
    found: dict[str, Code] = {}
    for text in texts_in(settings):
        for path in _paths_in(text, _RUN_END):
            whole = resolve_path(path)
            if whole not in found:
                found[whole] = _code_of_file(path)
    for name in _modules_in(settings):
        code = None if name in found else _code_of_module(name)
        found |= {name: code} if code else {}
    return list(found.values())


def names_in_words(*values: Any) -> frozenset[str]:
    """Return what users have named themselves: whole paths of files, and dotted
    names.

    Args:
        values: What they have written, whatever it is.
    """
    found: set[str] = set()
    for text in texts_in(values):
        found |= {resolve_path(path) for path in _paths_in(text, _NAMED_END)}
        found |= set(_DOTTED.findall(text))
    return frozenset(found)


def names_code(value: Any) -> bool:
    """Whether a value may name a plug-in file, there or not."""
    return any(_RUN_END.search(form) for text in texts_in(value) for form in _forms(text))


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text that a value holds, be it a key or deep within."""
    if isinstance(value, str | os.PathLike):
        yield os.fsdecode(cast("str | os.PathLike[str]", value))
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            yield from texts_in(key)
            yield from texts_in(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in cast("list[Any]", value):
            yield from texts_in(inner)
    elif isinstance(value, Spec):
        yield from texts_in([value.name, *value.args, value.settings])
    elif isinstance(value, ConfiguredPlugin):
        yield from texts_in([value.plugin.origin or value.name, value.settings])


def _forms(text: str) -> set[str]:
    """Return a text, and as it is where quotes within quotes were read."""
    found, waiting = set[str](), [text]
    while waiting:
        form = waiting.pop()
        if form not in found:
            found.add(form)
            waiting += [form.replace("''", "'"), form.replace('""', '"')]
    return found


def _paths_in(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """Yield what within a text is the path of a file that is there.

    Args:
        text: What is written.
        end: How a path ends.
    """
    for form in _forms(text):
        for stop in (match.end() for match in end.finditer(form)):
            first = max(0, stop - _LONGEST)
            starts = [one.end() for one in _BEFORE.finditer(form, first, stop)]
            for path in dict.fromkeys(form[at:stop].strip() for at in (first, *starts)):
                if lies(path):
                    yield path


def _modules_in(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names of optimizers."""
    for key, value in settings.items():
        head, _, inner = str(key).partition(".")
        if head == "sweep" and isinstance(value, Mapping):
            for axis, values in cast("Mapping[Any, Any]", value).items():
                if str(axis).partition(".")[0] == "optimizer":
                    yield from (n for t in texts_in(values) for n in _DOTTED.findall(t))
        elif head == "optimizer" and inner in ("", "name", "path"):
            yield from filter(_DOTTED.fullmatch, _names_of(value))


def _names_of(value: Any) -> Iterator[str]:
    """Yield what a plug-in as written may be called."""
    if isinstance(value, ConfiguredPlugin):
        yield value.name
    elif isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        for key in ("name", "path"):
            yield from _names_of(named.get(key))
    elif isinstance(value, str | Spec):
        with suppress(ConfigError):  # what cannot be read is refused where it is used
            yield parse_spec(value, "optimizer").name


def _code_of_file(path: str) -> Code:
    file = Path(resolve_path(path))
    found = set(sources(file))
    if any(_HIDDEN.search(place_of(one).read_bytes()) for one in found):
        found |= {*file.parent.glob("*.py"), *file.parent.glob("*/*.py")}
    files = [file, *sorted(found - {file})]
    imported = len(files) - 1
    text = f"plug-in file {path}" + (f" with {imported} that it imports" * bool(imported))
    return _code(str(file), text, files, file.parent)


def _code_of_module(name: str) -> Code | None:
    """Return the module of a dotted name; None where all may name it, or there is
    none.
    """
    module = name.rpartition(".")[0]
    files = _files_of_module(module)
    if not files or _is_listed(module, files):
        return None
    return _code(name, f"module {module} in {files[-1]}", files, files[0].parent)


def _code(name: str, text: str, files: Sequence[Path], folder: Path) -> Code:
    """Return code with its digest.

    Args:
        name: Its whole path, or its dotted name.
        text: What it is called in a message.
        files: All that it is, itself first.
        folder: Where paths begin in the lines of digests.
    """
    digests = {str(one): digest_of_file(place_of(one)) for one in files}
    lines = [f"{v}  {os.path.relpath(k, folder)}\n" for k, v in digests.items()]
    alone = next(iter(digests.values()))
    whole = (
        alone if len(files) == 1 else hashlib.sha256("".join(lines).encode()).hexdigest()
    )
    return Code(name, text, digests, whole)


def _files_of_module(module: str) -> list[Path]:
    """Return the files that importing a module would run, outermost first."""
    found: list[Path] = []
    folders: list[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), folders)
        if spec is None and depth == 1:
            with suppress(ImportError, ValueError):
                spec = find_spec(parts[0])  # one that an installer's own finder knows
        if spec is None:
            break
        if spec.origin and os.path.isfile(spec.origin):
            found.append(Path(spec.origin))
        folders = list(spec.submodule_search_locations or [])
    return found


def _is_listed(module: str, files: Sequence[Path]) -> bool:
    """Whether a module is of a package that all may name, and not one of that name
    in the present folder.
    """
    listed = any(module == one or module.startswith(f"{one}.") for one in PACKAGES)
    here = os.path.join(os.path.realpath(os.getcwd()), "")
    # an environment below the present folder is no module that lies there
    installed = {"site-packages", "dist-packages"}
    return listed and not any(
        os.path.realpath(file).startswith(here) and not installed & set(file.parts)
        for file in files
    )
