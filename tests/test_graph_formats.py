"""Random graphs, written in every format and read back equal; damaged files, refused or read whole.

What reads them is in ``topology/files``; the writers are those of networkx and scipy, and our own.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graph_samples import FORMATS, Format, Sample, read, same, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from decentral import ConfigError
from decentral.topology.files.assemble import file_of

#: Damaged files per format in the suite, and in a soak run.
FEW, MANY = 25, 500

by_every_format = pytest.mark.parametrize("name", FORMATS)
quietly = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12
)


@by_every_format
@quietly
@given(data=st.data(), packed=st.booleans())
def test_a_graph_is_read_back_as_it_was_written(
    name: str, tmp_path: Path, data: st.DataObject, packed: bool
) -> None:
    form = FORMATS[name]
    sample = data.draw(samples(form))
    same(read(tmp_path, form, form.write(sample), packed=packed), sample)


# --- damage ---------------------------------------------------------------------------------------


def damaged(data: bytes, how: str, draw: random.Random) -> bytes:
    """Return a file after an accident."""
    if how == "cut":
        return data[: draw.randrange(len(data))]
    if how == "bytes":
        changed = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if how == "types":
        wrong = (
            b"null",
            b"[]",
            b'"x"',
            b"-1",
            b"1e999",
            b"{}",
            b"true",
            b"9" * 30,
            b"",
            b"nan",
        )
        places = list(re.finditer(rb'"[^"\n]*"|[-+\w.]+', data))
        place = draw.choice(places)
        return data[: place.start()] + draw.choice(wrong) + data[place.end() :]
    lines = data.split(b"\n")
    if how == "shuffled":
        draw.shuffle(lines)
    elif how == "repeated":
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
    else:
        del lines[draw.randrange(len(lines))]
    return b"\n".join(lines)


def outcome(folder: Path, form: Format, data: bytes) -> Any:
    """Return the graph, or None where a file is refused as it should be: in one line, by name."""
    try:
        return read(folder, form, data)
    except ConfigError as error:
        said = str(error)
        assert "\n" not in said
        assert said.startswith("topology file ")
        assert (
            "expected" in said
            or "write it like" in said
            or "use one of" in said
            or "least" in said
        )
        return None


def try_damage(
    folder: Path,
    form: Format,
    sample: Sample,
    tries: int,
    counts: Counter[str] | None = None,
) -> None:
    """Damage a file in many ways; what is read has all that was written, wherever a cut shows.

    A cut between two lines shows only where a format counts or marks its end; one within the last
    line that is read is said.
    """
    whole, draw = form.write(sample), random.Random(str(sample))
    found_counts = Counter[str]() if counts is None else counts
    for k in range(tries):
        how = ("cut", "bytes", "types", "shuffled", "repeated", "without")[k % 6]
        data = damaged(whole, how, draw)
        found = outcome(folder, form, data)
        found_counts["refused" if found is None else "read"] += 1
        if found is None or how != "cut":
            continue
        if form.ends == "mark":
            same(found, sample)
        elif form.ends == "count":
            assert len(found) == len(sample.labels)
            assert found.number_of_edges() == len(sample.links)
        file = file_of(found)
        assert file is not None
        in_a_line = form.ends != "mark" and not data.endswith((b"\n", b"\r"))
        assert file.ended is not in_a_line
        found_counts["of these said to be cut"] += in_a_line


@by_every_format
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=2)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_whole(
    name: str, tmp_path: Path, data: st.DataObject
) -> None:
    form = FORMATS[name]
    try_damage(tmp_path, form, data.draw(samples(form)), FEW)


@pytest.mark.soak
@by_every_format
def test_no_damage_of_hundreds_is_read_by_halves(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Never a traceback, never a hang, never a smaller graph without a word."""
    form, counts = FORMATS[name], Counter[str]()

    @settings(max_examples=25, deadline=None)
    @given(sample=samples(form))
    def damage(sample: Sample) -> None:
        try_damage(tmp_path, form, sample, MANY // 25, counts)

    damage()
    assert counts["read"] + counts["refused"] >= MANY
    record_property(
        "counts", ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    )


@by_every_format
def test_a_cut_compressed_file_is_refused(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    first = 1 if form.labels == "from 1" else 0
    sample = Sample(tuple(str(k) for k in range(first, first + 3)), ((0, 1), (1, 2)), None,
                    not form.undirected)  # fmt: skip
    place = tmp_path / f"graph{form.ending}.gz"
    read(tmp_path, form, form.write(sample), packed=True)
    packed = next(tmp_path.glob("*.[Gg][Zz]")).read_bytes()
    place = tmp_path / (
        "out.some.gz" if form.ending == "out." else f"graph{form.ending}.gz"
    )
    from decentral.topology.files.formats import read_graph

    for end in range(2, len(packed) - 1, 7):
        place.write_bytes(packed[:end])
        with pytest.raises(ConfigError, match="a whole gzip file"):
            read_graph(place, place.name)
