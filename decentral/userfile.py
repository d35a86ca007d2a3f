"""A user's own files: opened because they were named, carried along, and imported
as plug-ins.

They travel with a job to other machines. A folder with plug-ins is a package of its
own here, under a name made from its path: modules of equal names beside two plug-in
files stay two modules, and ``sys.path`` is never touched. Within such files
``import helpers`` looks beside the plug-in file first, wherever the statement
stands. The standard library, decentral, and what Python would find in the very same
place go before that.

Sources are read through ``located``, so that carried files are found under their
old paths: errors, ``__file__`` and ``inspect`` show these.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from decentral.blame import adopt, users_place
from decentral.errors import ConfigError, exit_place, in_words, visible

# --- opened -----------------------------------------------------------------------


# By the path that the user's machine has: where a file lies here.
_opened: dict[str, Path] = {}
_carried: dict[str, Path] = {}


def locate(path: str | Path) -> Path:
    """Return where a named file lies, be it on this machine or carried here from
    the user's.
    """
    place = place_of(path)
    if place.is_file():
        # Remembered, since files that were read must travel to workers.
        _opened[resolve_path(path)] = place
    return place


def place_of(path: str | Path) -> Path:
    """Return where a named file lies; unlike one that is ``located``, it is not
    carried along.
    """
    whole = resolve_path(path)
    return _carried.get(whole, Path(whole))


def whole_location(path: str) -> str:
    """Return the whole path of data, or an address such as ``hf://...`` as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def resolve_path(path: str | Path) -> str:
    """Return the whole path of a file that is named, on the user's machine."""
    whole = os.path.expanduser(str(path))
    # Of a path that no file can have there are no links to follow.
    return os.path.abspath(whole) if "\0" in whole else os.path.realpath(whole)


def lies(path: str | Path) -> bool:
    """Whether there is such a file, on this machine or carried here."""
    return "\0" not in str(path) and os.path.isfile(place_of(path))


def find_again(path: str, place: Path) -> None:
    """Read a named file, or a folder of data, that is gone from where it was at
    another place, if it is there.

    With a plug-in file come the Python files beside and below it.
    """
    whole = Path(resolve_path(path))
    if place_of(whole).exists() or not place.exists():
        return
    _carried[str(whole)] = place
    beside = place.parent.rglob("*.py") if place.suffix == ".py" else ()
    for other in beside:
        _carried.setdefault(str(whole.parent / other.relative_to(place.parent)), other)


def list_carried_below(folder: Path) -> list[str]:
    """Return the old paths of the files that were carried here and lay below a
    folder.
    """
    return [path for path in _carried if path.startswith(f"{folder}{os.sep}")]


def opened_files() -> dict[str, bytes]:
    """Return the contents of all files that were named so far, to carry them
    elsewhere.
    """
    there = {path: place for path, place in _opened.items() if place.is_file()}
    return {path: place.read_bytes() for path, place in there.items()}


@contextmanager
def unpacked(files: Mapping[str, bytes], folder: Path) -> Generator[None]:
    """Lay carried files into a folder; within, they are found under their old
    paths.

    Thereafter the paths mean again what they mean on this machine: a process that
    trains more than once must not look for files in a folder that has gone.
    """
    laid: dict[str, Path] = {}
    for path, content in files.items():
        # A folder for each path: files of the same name may come from different
        # ones.
        place = folder / f"{zlib.crc32(path.encode()):x}" / Path(path).name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        laid[path] = _carried[path] = place
    try:
        yield
    finally:
        for path, place in laid.items():
            if _carried.get(path) == place:
                del _carried[path]
            # what was named here, too, still travels with the next job
            if _opened.get(path) == place:
                _opened[path] = Path(path)


# --- imported ---------------------------------------------------------------------


_PREFIX = "decentral_user_"
#: Seconds after which an import is told of that has not come to its end.
_PATIENCE_S = 10.0
_NOT_BESIDE = sys.stdlib_module_names | {"decentral"}

#: The folder of every package made here, and the file of every plug-in that was
#: named, by module.
_folders: dict[str, Path] = {}
_files: dict[str, Path] = {}


def load_file(path: str) -> ModuleType:
    """Import a user's Python file by path; what it raises is named as the user's
    own.
    """
    file = Path(resolve_path(path))
    name = _module_of(file)
    # Imported once, as modules are: two plug-ins of a file share what it defines.
    # it travels with the job, though only a function may import it
    if name not in sys.modules:
        if not locate(file).is_file():
            raise ConfigError(
                f"plug-in file {path} does not exist; give the path of a .py file."
            )
        for other in sources(file):
            locate(other)
    try:
        with tell_waiting(f"plug-in file {visible(path)}"):
            return importlib.import_module(name)
    except SystemExit as error:
        raise ConfigError(
            f"plug-in file {path} cannot be imported: {exit_place(error)}; "
            'keep what is a program below `if __name__ == "__main__":`.'
        ) from error
    except Exception as error:
        said = str(error) if isinstance(error, ConfigError) else in_words(error)
        raise ConfigError(
            f"plug-in file {path} cannot be imported: {said.rstrip('.')}{_at(error)}."
        ) from error


@contextmanager
def tell_waiting(what: str) -> Generator[None]:
    """Say on stderr what is waited for, where its import does not come to an end."""

    def tell() -> None:
        print(
            f"still waiting for {what} to be imported, since {_PATIENCE_S:g} s; Ctrl-C ends it.",
            file=sys.stderr,
        )

    waiting = threading.Timer(_PATIENCE_S, tell)
    waiting.daemon = True
    waiting.start()
    try:
        yield
    finally:
        waiting.cancel()


def load_installed(kind: str, point: Any) -> Any:
    """Import an installed plug-in by its entry point; what it raises is named as
    its own.

    Its package counts as a user's from now on: what goes wrong in there is no fault
    of ours.
    """
    try:
        with tell_waiting(f"{kind} {point.name!r} from {point.value}"):
            target = point.load()
    except (Exception, SystemExit) as error:
        said = exit_place(error) if isinstance(error, SystemExit) else in_words(error)
        raise ConfigError(
            f"{kind} {point.name!r} cannot be imported from {point.value}: {said}{_at(error)}."
        ) from error
    adopt(target)
    return target


def _at(error: BaseException) -> str:
    """Return where in a user's file an error was raised, in parentheses."""
    place = users_place(error)
    return f" ({place})" if place and not isinstance(error, SystemExit) else ""


def _module_of(file: Path) -> str:
    """Return the name under which a plug-in file is imported; make its folder a
    package.
    """
    # By folder, so that files of one folder see each other and those of others do
    # not.
    package = _PREFIX + hashlib.sha256(str(file.parent).encode()).hexdigest()[:12]
    name = f"{package}.{file.stem.replace('.', '_')}"
    _folders[package], _files[name] = file.parent, file
    # before Python's own, which know no carried files
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    return name


# --- what lies beside a file ------------------------------------------------------


def sources(file: Path) -> list[Path]:
    """Return a plug-in file and all files beside it that it may import, at once or
    later.
    """
    found: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found[one] = None
        for name in sorted(_imported_names(one)):
            waiting += _members(file.parent, name, one)
    return list(found)


def _members(folder: Path, name: str, importer: Path) -> Sequence[Path]:
    """Return the file of a module beside a plug-in file, or all files of a package
    there.
    """
    beside = _beside(folder, name, importer)
    if beside is None or beside.name == f"{name}.py":
        return [] if beside is None else [beside]
    return _files_below(folder / name)


def _imported_names(file: Path) -> Iterator[str]:
    """Yield the first name of all that a file imports, wherever it does, without
    running it.
    """
    with suppress(SyntaxError, OSError):  # importing it says so better
        for node in ast.walk(ast.parse(locate(file).read_bytes())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]
            elif isinstance(node, ast.ImportFrom):
                yield from (alias.name for alias in node.names)


def _beside(folder: Path, name: str, importer: Path) -> Path | None:
    """Return the module or package in a folder that a name means there: a file, or
    a folder.
    """
    if name in _NOT_BESIDE or "/site-packages/" in f"{folder}/":
        return None
    for file in (folder / f"{name}.py", folder / name / "__init__.py"):
        # a plug-in called wandb.py wants the real wandb
        if file != importer and lies(file):
            return file
    # A folder without __init__.py may hold anything, say a library's data: it comes
    # last.
    bare = folder / name
    there = bare.is_dir() or list_carried_below(bare)
    return (
        bare if there and _find_by_python(name) is None and _files_below(bare) else None
    )


def _files_below(folder: Path) -> list[Path]:
    """Return the Python files in a folder and in those below it, here or carried
    here.
    """
    here = folder.rglob("*.py") if folder.is_dir() else ()
    carried = (Path(path) for path in list_carried_below(folder) if path.endswith(".py"))
    return sorted({*here, *carried})


def _find_by_python(name: str) -> Path | None:
    """Return where Python itself finds a name; None: nowhere."""
    there = getattr(sys.modules.get(name), "__file__", None)
    if there is None:
        with suppress(ValueError, ImportError):
            spec = importlib.util.find_spec(name)
            there = spec.origin or "." if spec else None
    return None if there is None else Path(there).resolve()


# --- the machinery of importing ---------------------------------------------------


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Do what an import statement in a user's file says: ``builtins.__import__``
    for siblings.
    """
    package = str((globals or {}).get("__name__", "")).partition(".")[0]
    first = name.partition(".")[0]
    if not level and package in _folders:
        importer = Path(str((globals or {}).get("__file__", "")))
        file = _beside(_folders[package], first, importer)
        # as in a script's own folder
        if file is not None and _find_by_python(first) != file:
            found = builtins.__import__(
                f"{package}.{name}", globals, locals, fromlist or (), 0
            )
            return found if fromlist else sys.modules[f"{package}.{first}"]
    return builtins.__import__(name, globals, locals, fromlist or (), level)


class _Loader(SourceLoader):
    """Runs a user's file; no bytecode is written beside it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return str(self.file)

    def get_data(self, path: str) -> bytes:
        return locate(path).read_bytes()

    def exec_module(self, module: ModuleType) -> None:
        # Statements call the ``__import__`` of the builtins that their module has.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds what stands below the packages made here, and nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        if path is None:
            return _bare(fullname, _folders[fullname]) if fullname in _folders else None
        name = fullname.rpartition(".")[2]
        folder = Path(next(iter(path)))
        known = _files.get(fullname, folder / f"{name}.py")
        for file in (known, folder / name / "__init__.py"):
            if lies(file):
                return importlib.util.spec_from_file_location(
                    fullname, file, loader=_Loader(file)
                )
        return _bare(fullname, folder / name) if _files_below(folder / name) else None


def _bare(fullname: str, folder: Path) -> ModuleSpec:
    """Return a package that is a folder and no file."""
    spec = ModuleSpec(fullname, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


_finder = _Finder()
