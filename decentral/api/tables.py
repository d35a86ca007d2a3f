"""Tables of records: as text in a script, as HTML in a notebook, as a frame of
pandas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from shutil import get_terminal_size
from typing import Any

from decentral.errors import ConfigError

#: Columns that a table names where it is written in a line.
_NAMED = 6
#: Records that a table shows as text.
_LONG = 40


@dataclass(frozen=True, repr=False)
class Table(Sequence[dict[str, Any]]):
    """Records, each a dict of numbers and texts by name, in order.

    >>> table = Table([{"run": "a", "loss": 0.5}, {"run": "b"}])
    >>> table[0]["loss"], table.columns
    (0.5, ['run', 'loss'])
    """

    records: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        """The names in any of the records, in the order in which they come."""
        return list(dict.fromkeys(key for one in self.records for key in one))

    def __repr__(self) -> str:
        """Say how many records there are, and of what."""
        named = self.columns
        more = ", ..." if len(named) > _NAMED else ""
        return (
            f"<{type(self).__name__} of {len(self)}: {', '.join(named[:_NAMED])}{more}>"
        )

    def __str__(self) -> str:
        """Return a table in text: the columns that fit beside each other."""
        return table_text(self.columns, self.records)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __getitem__(self, place: Any) -> Any:
        """Return the record at a place; of a slice, a list of them."""
        found = self.records[place]
        return dict(found) if isinstance(found, Mapping) else [dict(one) for one in found]

    def frame(self) -> Any:
        """Return the records as a pandas frame, NaN where one lacks a number."""
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(
                "frame() needs pandas: pip install pandas; or take the records as they are."
            ) from error
        return pandas.DataFrame(list(self), columns=self.columns)

    def _repr_html_(self) -> str:
        return table_html(self.columns, self.records)


def table_html(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Return records as an HTML table for a notebook."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = (
        "".join(f"<td>{escape(_cell(one.get(name)))}</td>" for name in columns)
        for one in records
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table_text(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    """Return records as a table in text, as wide as the terminal, and say what of it
    does not fit.
    """
    shown, room = records[:_LONG], get_terminal_size((100, 24)).columns
    lines, listed = [""] * (len(shown) + 1), 0
    for name in columns:
        cells = [name, *(_cell(one.get(name)) for one in shown)]
        width = max(map(len, cells))
        if listed and len(lines[0]) + 2 + width > room:
            break
        texts = all(isinstance(one.get(name), str | None) for one in shown)
        padded = [cell.ljust(width) if texts else cell.rjust(width) for cell in cells]
        between = "  " if listed else ""
        lines = [line + between + cell for line, cell in zip(lines, padded, strict=True)]
        listed += 1
    more = [
        f"{count:,} more {what}"
        for what, count in (
            ("rows", len(records) - len(shown)),
            ("columns", len(columns) - listed),
        )
        if count
    ]
    tail = [f"and {' and '.join(more)}"] if more else []
    return "\n".join([*(line.rstrip() for line in lines), *tail])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def column(values: list[Any]) -> Any:
    """Return numbers as an array of numbers, NaN where there is none; anything else
    as objects.
    """
    import numpy as np

    if any(isinstance(value, str) for value in values):
        return np.array(values, dtype=object)
    return np.array([np.nan if value is None else value for value in values])
