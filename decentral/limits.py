"""The most that can be asked for: above every real use, and below what only a slip
can mean; what is read of a file; then what this machine has, memory and cores.

What is below the limits may still be too much for a machine: memory is estimated
before a run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from decentral.errors import ConfigError
from decentral.units import format_bytes

if TYPE_CHECKING:
    import torch

#: Steps, and whatever else is counted from 1: intervals in steps, samples, widths.
COUNT = 10**12
NODES = 10**6
#: Samples of one node in one step; the largest of published runs take some 10^7
#: tokens, of all.
BATCH = 10**8
THREADS_PER_CORE = 4
#: Levels of a setting that is given in Python, and bits of a number in it: more could
#: not be written into a configuration.
DEEPEST, MOST_BITS = 64, 10_000
#: Values of one setting in a sweep, and runs of a sweep.
POINTS = 10_000


def check_batch(size: int, where: str) -> None:
    """Raise ConfigError for a batch that no node could take."""
    if size > BATCH:
        raise ConfigError(
            f"batch {where}: {size:,} samples per node and step; it must be at most {BATCH:,}."
        )


def check_threads(threads: int | str, cores: float | None = None) -> None:
    """Raise ConfigError for more threads than could help on ``cores``, this
    machine's if None.
    """
    found = int(cores or os.cpu_count() or 1)
    if isinstance(threads, int) and threads > THREADS_PER_CORE * found:
        raise ConfigError(
            f"threads = {threads}: there are {found} cores; it must be at most "
            f"{THREADS_PER_CORE} per core, {THREADS_PER_CORE * found}, or auto."
        )


# --- files ------------------------------------------------------------------------


#: Bytes that are read of a configuration, of a file of JSON, and of one of lines of
#: JSON: a million of them are half a gigabyte.
CONFIG_BYTES = 16 << 20
JSON_BYTES = 1 << 30
LINES_BYTES = 16 << 30

_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)


def check_given(value: Any, depth: int = 0) -> None:
    """Refuse settings from Python that nobody could write down: those that hold
    themselves, and numbers of thousands of digits.

    Args:
        value: A setting, or what one holds.
        depth: How deep within a setting it is.
    """
    if depth > DEEPEST:
        raise ConfigError(
            f"a setting holds itself, or is nested deeper than {DEEPEST} levels."
        )
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ConfigError(
            f"a setting is a whole number of {value.bit_length():,} bits; {MOST_BITS:,} at most."
        )
    inner: Iterable[Any] = ()
    if type(value) is dict:
        inner = cast("dict[Any, Any]", value).values()
    elif type(value) in (list, tuple):
        inner = cast("list[Any]", value)
    for each in inner:
        check_given(each, depth + 1)


def named_folder(path: object) -> Path:
    """Return the folder that a user has named; raises ConfigError for what names none,
    such as the home of somebody who is not there.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"a folder is named by its path, not by {type(path).__name__}; give a text or a "
            "Path."
        )
    place = Path(cast("str | os.PathLike[str]", path))
    if "\0" in str(place):
        raise ConfigError(f"{str(place)!r}: no folder has a NUL in its name.")
    try:
        return place.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{place}: there is no home folder of that user; write ./{place} for a folder of "
            "that name."
        ) from error


def open_file(path: str | Path, most: int | None = None) -> BufferedReader:
    """Open a regular file for reading; raises OSError for anything else that has
    its name.

    To open a FIFO waits for a writer, and a device may have no end.

    Args:
        path: The file.
        most: The bytes that it may have; None: any number.
    """
    if "\0" in str(path):  # which Python does not even ask the system for
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    # Looked at before it is opened, which does something to some devices; and again
    # afterwards, when nobody can replace it.
    _require_regular(os.stat(path).st_mode, path)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
    try:
        found = os.fstat(file.fileno())
        _require_regular(found.st_mode, path)
        if most is not None and found.st_size > most:
            size, limit = format_bytes(found.st_size), format_bytes(most)
            said = f"it has {size}, and at most {limit} are read"
            raise OSError(errno.EFBIG, said, str(path))
    except OSError:
        file.close()
        raise
    return file


def _require_regular(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "special file")
        raise OSError(errno.EINVAL, f"it is a {kind}, and no file", str(path))


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the content of a regular file; raises OSError, also where it is
    longer.

    Args:
        path: The file.
        most: The bytes that it may have.
    """
    with open_file(path, most) as file:
        return file.read(most)


def digest_of_file(path: Path) -> str:
    """Return the digest of a regular file; raises OSError."""
    with open_file(path, LINES_BYTES) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | Path) -> Any:
    """Return what a file of JSON holds; raises OSError or ValueError."""
    return parse_json(read_bytes(path, JSON_BYTES))


def is_json(path: str | Path) -> bool:
    """Whether a file is there that holds a JSON object."""
    try:
        return isinstance(read_json(path), dict)
    except (OSError, ValueError):
        return False


def parse_json(text: str | bytes) -> Any:
    """Return what a text of JSON says; raises ValueError, also where it is nested
    deeper than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


# --- this machine -----------------------------------------------------------------


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon instead of spinning, unless the environment
    says otherwise.

    Where other programs use the same cores, spinning for long starves the very
    thread that is waited for (measured: a step of 1 ms took 50). OpenMP reads this
    when torch is first imported, so it is set before; afterwards it changes
    nothing.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


#: Where control groups say what a container may use and does use.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free for this process, None where nobody says."""
    if device.type == "cuda":
        from torch.cuda import mem_get_info

        return mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [
        each
        for each in (_of_machine(), *map(_of_container, *zip(*_LIMITS, strict=True)))
        if each
    ]
    # A container may allow less than its machine has left.
    return min(found, default=None)


def _of_machine() -> int | None:
    facts = _read("/proc/meminfo").split("\n")
    return next(
        (1024 * int(f.split()[1]) for f in facts if f.startswith("MemAvailable")), None
    )


def _of_container(limit: str, used: str) -> int | None:
    most, now = _read(limit).strip(), _read(used).strip()
    # What is used holds cached files as well, which give way; a limit above all
    # memory is none.
    return int(most) - int(now) if most.isdigit() and now.isdigit() else None


def require(
    needed: float,
    what: str,
    device: torch.device,
    remedy: str = "use fewer nodes, a smaller model, or several workers",
) -> None:
    """Refuse what needs more memory than is free.

    Args:
        needed: Bytes.
        what: What takes them, for the message.
        device: Where.
        remedy: What to do about it.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} need about {format_bytes(needed)} of memory on {device}, and "
            f"{format_bytes(free)} are free; {remedy}."
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""
