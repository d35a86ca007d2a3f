"""What machines really did: seconds of their steps, and when they were reachable,
from a file.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite
from os import stat

from decentral import rng
from decentral.errors import ConfigError
from decentral.limits import read_bytes
from decentral.userfile import locate

#: A made-up day of four machines, in seconds: one always on, one slow in the
#: middle, one away for a while, one that comes late.
SAMPLE = """node,time_s,compute_s,online
0,0,0.02,1
1,0,0.03,1
1,4,0.09,1
1,6,0.03,1
2,0,0.025,1
2,5,0.025,0
2,6,0.025,1
3,0,0.04,0
3,1,0.04,1
0,10,0.02,1
"""
#: Of a machine's own line: bytes per second, and seconds added to every way.
_LINE = ("up_Bps", "down_Bps", "latency_s")
_COLUMNS = ("node", "time_s", "compute_s", "online", *_LINE)
_ONLINE = {"1": True, "true": True, "0": False, "false": False}
_MOST_BYTES = 1 << 28
#: Bytes per second up and down, and seconds more on every way; None: as the network
#: says.
Line = tuple[float | None, ...]
_Entry = tuple[float, float | None, bool, Line, int]


@dataclass(frozen=True)
class Machine:
    """One machine of a trace: a value holds from its time to the next one's.

    ``end_s``: when the file begins anew; infinity: never, the last line holds on.
    """

    times: tuple[float, ...]
    seconds: tuple[float | None, ...]  # of a step; None: the file does not say
    online: tuple[bool, ...]
    end_s: float
    lines: tuple[Line, ...] = ()  # to the network; none: as the network says

    def line(self, at_s: float) -> Line:
        """Return what its line is like at a moment."""
        return self.lines[self.place(at_s)[0]] if self.lines else (None, None, None)

    def place(self, at_s: float) -> tuple[int, float]:
        """Return the line that holds at a moment, and the moment within the file."""
        within_s = at_s % self.end_s if self.end_s < inf else at_s
        line = bisect_right(self.times, within_s) - 1
        # The first line says what was before it, too.
        return max(0, line), within_s

    def _until_s(self, line: int) -> float:
        """Return when the line after one begins, or the file ends."""
        later = self.times[line + 1] if line + 1 < len(self.times) else inf
        return min(later, self.end_s)

    def away_s(self, at_s: float) -> float:
        """Return the seconds from a moment until the machine is online; 0: it is."""
        line, within_s = self.place(at_s)
        waited_s = 0.0
        while not self.online[line]:
            until_s = self._until_s(line)
            waited_s += until_s - within_s
            line, within_s = self.place(0.0 if until_s == self.end_s else until_s)
        return waited_s

    def step_s(self, at_s: float, otherwise_s: float, amount: float = 1.0) -> float:
        """Return how long a step takes that begins at a moment: its seconds as of
        then, and all that the machine is away meanwhile.

        Args:
            at_s: When it begins.
            otherwise_s: Its seconds where the file does not say.
            amount: How many times as much there is to compute.
        """
        said_s = self.seconds[self.place(at_s)[0]]
        left_s, now_s = amount * (otherwise_s if said_s is None else said_s), at_s
        took_s = 0.0
        while True:
            away_s = self.away_s(now_s)
            line, within_s = self.place(now_s + away_s)
            free_s = self._until_s(line) - within_s
            if left_s <= free_s:
                return took_s + away_s + left_s
            left_s -= free_s
            took_s += away_s + free_s
            now_s = at_s + took_s


def machines_of(path: str | None, repeat: bool) -> tuple[Machine, ...]:
    """Return the machines of a file, or of the sample, in ascending order."""
    if path is None:
        return _read(SAMPLE, "sample", repeat)
    try:
        place = locate(path)
        found = stat(place)
        return _opened(str(place), found.st_mtime_ns, found.st_size, repeat)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"compute 'trace': cannot read {path} ({error}); it must be a CSV file with the "
            "columns node, time_s and compute_s or online."
        ) from error


@lru_cache(maxsize=8)
def _opened(path: str, changed: int, size: int, repeat: bool) -> tuple[Machine, ...]:
    """Read a file once for all steps, as long as it stays what it is.

    Args:
        path: Where it lies.
        changed: When it was changed.
        size: Its bytes.
        repeat: Whether it begins anew at its end.
    """
    return _read(read_bytes(path, _MOST_BYTES).decode("utf-8-sig"), path, repeat)


def _read(text: str, path: str, repeat: bool) -> tuple[Machine, ...]:
    rows = csv.reader(text.splitlines())
    head = [name.strip() for name in next(rows, [])]
    if not {"node", "time_s"} <= {*head} <= {*_COLUMNS} or len({*head}) != len(head):
        raise _refusal(
            path, 1, f"columns {', '.join(head) or 'missing'}; they are node, time_s, and any of "
            f"{', '.join(_COLUMNS[2:])}",
        )  # fmt: skip
    lines: dict[int, list[_Entry]] = {}
    for cells in rows:
        number = rows.line_num
        if not cells:
            continue
        if len(cells) != len(head):
            said = f"{len(cells)} cells where the first line has {len(head)}"
            raise _refusal(path, number, said)
        row = dict(zip(head, (cell.strip() for cell in cells), strict=True))
        node, line = _parse(row, path, number)
        mine = lines.setdefault(node, [])
        if mine and line[0] <= mine[-1][0]:
            said = f"time_s {line[0]:g} of node {node} comes after {mine[-1][0]:g}"
            raise _refusal(path, number, f"{said}; time must go on")
        mine.append(_filled(line, mine[-1], row) if mine else line)
    if not lines:
        raise _refusal(path, 1, "no line after the first")
    return _machines(lines, path, repeat)


def _filled(line: _Entry, before: _Entry, row: Mapping[str, str]) -> _Entry:
    """Return a line whose empty cells are what they were in the one before."""
    seconds = before[1] if line[1] is None else line[1]
    online = line[2] if row.get("online", "") else before[2]
    pairs = zip(line[3], before[3], strict=True)
    own = tuple(was if new is None else new for new, was in pairs)
    return line[0], seconds, online, own, line[4]


def _machines(
    lines: dict[int, list[_Entry]], path: str, repeat: bool
) -> tuple[Machine, ...]:
    """Return the machine of every node.

    Args:
        lines: What the file says of each, in the order of time.
        path: The file.
        repeat: Whether it begins again behind its last line.
    """
    last_s = max(mine[-1][0] for mine in lines.values())
    end_s = last_s if repeat and last_s > 0 else inf
    for node, mine in lines.items():
        kept = [one for one in mine if one[0] < end_s] or mine[:1]
        if not (kept[-1][2] if end_s == inf else any(one[2] for one in kept)):
            said = f"node {node} is never online again after it"
            raise _refusal(path, mine[-1][4], said)
        lines[node] = kept
    return tuple(
        Machine(
            tuple(one[0] for one in mine),
            tuple(one[1] for one in mine),
            tuple(one[2] for one in mine),
            end_s,
            tuple(one[3] for one in mine),
        )
        for _, mine in sorted(lines.items())
    )


def _parse(row: Mapping[str, str], path: str, number: int) -> tuple[int, _Entry]:
    """Return the node of a line, and what it says: its time, seconds, whether it is
    online, and its line to the network.
    """
    node, time, seconds = row["node"], row["time_s"], row.get("compute_s", "")
    if not (node.isascii() and node.isdigit()):
        raise _refusal(path, number, f"node {node!r}; nodes are whole numbers from 0")
    at_s = _number("time_s", time, path, number)
    said_s = _number("compute_s", seconds, path, number) if seconds else None
    own = tuple(
        _number(name, row[name], path, number) if row.get(name) else None
        for name in _LINE
    )
    online = row.get("online", "").lower() or "1"
    if online not in _ONLINE:
        raise _refusal(path, number, f"online {online!r}; it is 1 or 0")
    return int(node), (at_s, said_s, _ONLINE[online], own, number)


def _number(name: str, value: str, path: str, number: int) -> float:
    """Return a cell as a number, of times at least 0, of all else above 0.

    Args:
        name: Its column.
        value: The cell.
        path: The file.
        number: The line.
    """
    try:
        one = float(value)
    except ValueError:
        one = float("nan")
    least = name in ("time_s", "latency_s")
    if not isfinite(one) or one < 0 or (not least and one == 0):
        what = "bytes per second" if name.endswith("Bps") else "seconds"
        limit = f"{what} {'of at least 0' if least else 'above 0'}"
        raise _refusal(path, number, f"{name} {value!r}; it must be {limit}")
    return one


def _refusal(path: str, line: int, said: str) -> ConfigError:
    return ConfigError(f"compute 'trace': {path}, line {line}: {said}.")


def whose(node: int, count: int, seed: int, more: str) -> int:
    """Return which machine of a trace a node is."""
    if node < count or more == "cycled":
        return node % count
    return int(rng.integers(count, seed, "compute/trace", [node])[0])
