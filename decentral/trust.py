"""Whose code runs: what the configuration of somebody else names is data until it
is trusted.

The user's own is what they name on the command line or in Python, and what lies
beside or below a configuration that they name and that is in no run folder. All
other code, a plug-in file or a module with a dotted name, runs if this user has run
it before or gives its digest by ``--trust``. Packages of optimizers that are listed
here are for all to name.

The decision falls where a configuration is read, before anything of it is built,
and holds for what was read only: nothing is kept in the process. The answer, files
with their digests, goes with the configuration to workers and restarts.

What was run is recorded by digest in the user's state folder, and in the file that
``DECENTRAL_TRUST`` names. What code that is trusted does is its own affair.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from decentral.errors import ConfigError
from decentral.limits import check_given, digest_of_file
from decentral.named_code import Code, code_in, names_in_words
from decentral.userfile import place_of

#: Characters of a digest that are shown, and the fewest that say which is meant.
SHORT = 12
#: What ``trust=`` takes in Python: digests, or True for all that is named.
Given = bool | str | Sequence[str]

_HEX = re.compile(rf"[0-9a-f]{{{SHORT},64}}")
_LINE = re.compile(rb"([0-9a-f]{64})(?:\s|$)")

# --- what the user allows ---------------------------------------------------------


@dataclass(frozen=True)
class Trust:
    """What one call of the user's allows, be it a command or a function.

    ``names`` are whole paths of files and dotted names that they have written
    themselves.
    """

    everything: bool = False
    digests: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()

    @staticmethod
    def of(given: Given | Trust, *named: Any) -> Trust:
        """Return what a user allows.

        Args:
            given: Digests, True for all that is named, or what they allow already.
            named: All that they have written themselves.

        Raises:
            ConfigError: What is given is no digest.
        """
        if not isinstance(given, Trust):
            digests = () if isinstance(given, bool) else given
            digests = (digests,) if isinstance(digests, str) else tuple(digests)
            for one in digests:
                if not _HEX.fullmatch(one):
                    raise ConfigError(
                        f"trust: {one!r} is no digest; give what the refusal shows, {SHORT} or "
                        "more characters of a SHA-256."
                    )
            given = Trust(given is True, digests)
        check_given(named)
        names = given.names | names_in_words(named)
        return Trust(given.everything, given.digests, names)

    def joined(self, other: Trust) -> Trust:
        """Return what either allows."""
        return Trust(
            self.everything or other.everything,
            self.digests + other.digests,
            self.names | other.names,
        )

    def allows(self, code: Code) -> bool:
        """Whether the user has named this code, or given its digest."""
        return self.everything or code.name in self.names or self.knows(code)

    def knows(self, code: Code) -> bool:
        """Whether the user has given the digest of this code."""
        return any(code.digest.startswith(one) for one in self.digests)


class Untrusted(ConfigError):
    """A configuration names code that its reader has neither named nor run."""


#: Nothing is allowed but what is the user's own anyway.
NOTHING = Trust()


class Approved(dict[str, Any]):
    """Settings whose code may run; ``files`` are digests by path, of what is not
    the user's own.
    """

    files: Mapping[str, str] = MappingProxyType({})


def approve(
    settings: Mapping[str, Any],
    source: str | Path,
    trust: Trust = NOTHING,
    *,
    of_run: bool = False,
) -> Approved:
    """Return settings as such whose code may run.

    Args:
        settings: All that it says, with paths as they will be opened.
        source: The file that it was read from.
        trust: What the user allows.
        of_run: Whether it is that of a run folder, whatever lies beside it.

    Raises:
        Untrusted: It names code that is neither the user's own nor trusted.
    """
    strange = [one for one in code_in(settings) if not _is_own(one, source, of_run)]
    known = recorded() if strange else set[str]()
    new = [one for one in strange if one.digest not in known]
    if refused := [one for one in new if not _is_allowed(one, trust, known)]:
        raise Untrusted(_refusal(source, refused))
    # What was allowed by its digest is asked for once.
    _write([one for one in new if trust.knows(one)])
    found = Approved(settings)
    others = [one for one in strange if one.name not in trust.names]
    found.files = {path: each for one in others for path, each in one.files.items()}
    return found


def _is_allowed(code: Code, trust: Trust, known: set[str]) -> bool:
    """Whether new code is named, or of files each of which is, or was run before.

    Args:
        code: A file or module that was not run as it is.
        trust: What the user allows.
        known: The digests that are on record.
    """
    return trust.allows(code) or all(
        path in trust.names or digest in known for path, digest in code.files.items()
    )


def approved_files(layers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the files of others that layers of settings may run, with their
    digests.
    """
    found: dict[str, str] = {}
    for layer in layers:
        found |= layer.files if isinstance(layer, Approved) else {}
    return found


def confirm(approved: Mapping[str, str]) -> None:
    """Raise ConfigError where a file is not what it was when it was allowed to run.

    Args:
        approved: Digests by path, as ``approved_files`` returns them.
    """
    for path, digest in approved.items():
        place = place_of(path)
        if not place.is_file() or digest_of_file(place) != digest:
            raise ConfigError(
                f"{path} has changed since it was allowed to run; restore it, or begin again."
            )


def _is_own(code: Code, source: str | Path, of_run: bool) -> bool:
    """Whether code lies beside or below a configuration that is in no run folder.

    Args:
        code: A file or module.
        source: The configuration.
        of_run: Whether it is that of a run folder.
    """
    if of_run or in_run_folder(source):
        return False
    folders = {os.path.dirname(os.path.abspath(source)), os.path.dirname(_real(source))}
    return all(
        any(path.startswith(os.path.join(folder, "")) for folder in folders)
        for path in code.files
    )


def _refusal(source: str | Path, refused: Sequence[Code]) -> str:
    each = [f"{one.text} (sha256 {one.digest[:SHORT]})" for one in refused]
    flags = " ".join(f"--trust {one.digest[:SHORT]}" for one in refused)
    shown = [one.digest[:SHORT] for one in refused]
    return (
        f"{source} names code that you have neither named nor run: {', '.join(each)}; read it, "
        f"then allow it by {flags} (in Python trust={shown if shown[1:] else shown[0]!r})."
    )


# --- whose a configuration is -----------------------------------------------------


#: What a run writes. A folder that holds two of these, or a run's configuration, is
#: that of a run; a project may have one of its own, such as checkpoints.
_OF_RUN = (
    "metrics.jsonl", "events.jsonl", "checkpoints", "env.json", "records.json",
    "summary.json", "merged.safetensors",
)  # fmt: skip


def in_run_folder(path: str | Path) -> bool:
    """Whether a file lies in a run folder or below one, as spelled or with links
    followed.
    """
    for whole in {os.path.abspath(os.path.expanduser(path)), _real(path)}:
        if any(map(_is_run, Path(whole).parents)):
            return True
    return False


def _is_run(folder: Path) -> bool:
    """Whether a folder holds several parts of a run, or its configuration."""
    if sum(os.path.lexists(folder / name) for name in _OF_RUN) > 1:
        return True
    config = folder / "config.yaml"
    with suppress(OSError):
        if config.is_file():
            with config.open("rb") as file:
                return file.read(15) == b"# decentral run"
    return False


def _real(path: str | Path) -> str:
    return os.path.realpath(os.path.expanduser(path))


# --- what this user has run -------------------------------------------------------


def record(*settings: Mapping[str, Any]) -> str:
    """Remember all code that settings name: the user runs it.

    Returns what to say where it cannot be remembered; else nothing.

    Args:
        settings: Those of a run, each.
    """
    found = {code.digest: code for one in settings for code in code_in(one)}
    known = recorded() if found else set[str]()
    return _write([code for digest, code in found.items() if digest not in known])


def _write(codes: Sequence[Code]) -> str:
    """Append digests to the record; return why that is impossible, if it is."""
    if not codes:
        return ""
    # Of several files also each: one of them may change alone.
    digests = {one.digest: one.name for one in codes}
    digests |= {digest: path for one in codes for path, digest in one.files.items()}
    lines = [f"{k}  {v.encode('unicode_escape').decode()}\n" for k, v in digests.items()]
    records = _records()
    problems: list[str] = []
    for file in records:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            _append(file, "".join(lines).encode())
        except OSError as error:
            problems.append(f"{file}: {os.strerror(error.errno or 0)}")
    if len(problems) < len(records):
        return ""
    where = "; ".join(problems) or "there is no home folder"
    return (
        f"what you run cannot be recorded ({where}), so that its run folder will ask for --trust; "
        "DECENTRAL_TRUST=FILE names another place."
    )


def _append(file: Path, lines: bytes) -> None:
    """Add lines at the end of a file, however many processes do so."""
    handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "rb+", buffering=0) as opened:
        with suppress(ImportError, OSError):  # a file system without locks
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX)
        end = opened.seek(0, os.SEEK_END)
        # a line that a full disk has cut takes no other with it
        whole = not end or os.pread(handle, 1, end - 1) == b"\n"
        opened.write(lines if whole else b"\n" + lines)


def recorded() -> set[str]:
    """Return the digests of all code, and of its files, that this user has run."""
    found: set[str] = set()
    for file in _records():
        with suppress(OSError):
            if file.is_file() and _is_safe(file.stat()):
                lines = file.read_bytes().splitlines()
                found |= {m[1].decode() for m in map(_LINE.match, lines) if m}
    return found


def _is_safe(found: os.stat_result) -> bool:
    """Whether nobody but the user, or root, can have written a file."""
    geteuid = getattr(os, "geteuid", None)  # not on Windows
    return geteuid is None or (
        found.st_uid in (0, geteuid()) and not found.st_mode & stat.S_IWOTH
    )


def _records() -> list[Path]:
    """Return the record that is named, and that in the user's state folder, where
    there is one.
    """
    given = os.environ.get("DECENTRAL_TRUST")
    places = {"darwin": "~/Library/Application Support", "win32": "~/AppData/Local"}
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser(
        places.get(sys.platform, "~/.local/state")
    )
    # without a home folder ~ stays what it is
    own = [Path(state, "decentral", "trusted")] if os.path.isabs(state) else []
    return [*([Path(given).expanduser()] if given else []), *own]
