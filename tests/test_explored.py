"""What pages know of their figures: the values behind the lines, units, names, places."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from synthetic import torus, write_run

from decentral.report import figures
from decentral.report.figures.analysed import contours
from decentral.report.figures.canvas import canvas
from decentral.report.figures.explored import boxes, explored, set_grid
from decentral.report.pages import drawings
from decentral.report.reader import read_run
from decentral.report.run import write_report

pytestmark = pytest.mark.usefixtures("rendered")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "one"))


def about(figure: Figure) -> list[dict[str, Any]]:
    return json.loads(explored(figure))


def test_the_values_are_those_of_the_run(run: Any) -> None:
    (found,) = about(figures.learning(run))
    by_name = {one["name"]: one for one in found["series"]}
    steps, values = run.series("accuracy/merged")
    merged = by_name["average of all models"]
    assert merged["x"] == steps
    assert merged["y"] == pytest.approx(values, rel=1e-5)
    assert (merged["kind"], merged["role"]) == ("line", "merged")
    band = by_name["local, lowest to highest"]
    assert band["y"] == pytest.approx(run.series("accuracy/local_min")[1], rel=1e-5)
    assert band["high"] == pytest.approx(run.series("accuracy/local_max")[1], rel=1e-5)
    assert found["x"] == {"unit": "step", "scale": "linear"}
    assert found["y"]["unit"] == "%"


def test_marks_axes_and_legend_of_a_drawing_say_whose_they_are(run: Any) -> None:
    (drawn,) = drawings([figures.learning(run)], "a", "b")
    keys = {one["key"] for one in json.loads(drawn.plot)[0]["series"]}
    assert {*re.findall('data-series="([^"]*)"', drawn.body)} == keys
    assert {*re.findall('data-legend="([^"]*)"', drawn.body)} == keys
    assert re.findall('data-axis="([^"]*)"', drawn.body) == ["0x", "0y"]
    assert drawn.body.count("data-tick") > 10
    left, top, right, bottom, *ends = json.loads(drawn.boxes)[0]
    assert 0 < left < right < float(drawn.box.split()[2])
    assert 0 < top < bottom < float(drawn.box.split()[3])
    assert ends[:2] == [0, 3000]


def test_a_place_on_the_page_is_the_value_that_is_told() -> None:
    """A line through the corners of the axes goes through the corners of their box."""
    figure, axes = canvas((4, 3))
    axes.plot([0, 1], [0, 1], label="line")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    (drawn,) = drawings([figure], "a", "b")
    left, top, right, bottom, *_ = json.loads(drawn.boxes)[0]
    path = re.search(
        r'data-series="k0".*?d="M ([\d. ]+) \nL ([\d. ]+)', drawn.body, re.DOTALL
    )
    assert path is not None
    start, end = ([float(part) for part in path[k].split()] for k in (1, 2))
    assert start == pytest.approx([left, bottom], abs=0.01)
    assert end == pytest.approx([right, top], abs=0.01)


def test_what_is_not_finite_is_no_value() -> None:
    figure, axes = canvas((4, 3))
    axes.plot([0, 1, 2], [0, float("nan"), float("inf")], label="line")
    set_grid(axes, [0], [0, 1], [[float("nan")], [2.5]], "loss")
    (found,) = about(figure)
    assert found["series"][0]["y"] == [0]
    assert found["grid"]["z"] == [[None], [2.5]]


def test_a_drawing_without_scales_or_names_has_nothing_to_point_at(run: Any) -> None:
    assert explored(figures.network(run.topology)) == ""
    figure, axes = canvas((4, 3))
    axes.plot([0, 1], [0, 1])
    assert explored(figure) == ""


def test_places_of_axes_are_known_after_they_are_drawn() -> None:
    figure, axes = canvas((4, 3))
    axes.set_ylabel("a label that takes room")
    before = boxes(figure)
    figures.to_svg(figure)
    assert boxes(figure) != before


def test_pages_of_many_nodes_stay_small(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "torus", nodes=1024, links=torus(32)))
    assert page.stat().st_size < 1_000_000


def test_no_height_of_a_contour_stands_behind_the_name_of_a_model() -> None:
    side = [k / 10 for k in range(-10, 11)]
    loss = [[1 + x * x + y * y for x in side] for y in side]
    part = {"u": side, "v": side, "loss": loss, "marks": []}

    def heights(marks: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
        _, axes = canvas((4.0, 4.0))
        contours(axes, {**part, "marks": marks})
        texts = [
            one for one in axes.texts if one.get_visible() and one.get_text()[0] == "1"
        ]
        return {one.get_text(): one.get_position() for one in texts}

    free = heights([])
    for said, (x, y) in free.items():
        kept = heights([{"name": "node 5", "at": (x, y - 0.1), "on": True}])
        assert said not in kept
    assert kept
