"""Phases: from when to when, whatever the spelling, and one line for what cannot be."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import tiny_setup

from decentral import ConfigError, Point
from decentral.config import make_config, parse_assignments
from decentral.loop.preparing import prepare, tracks
from decentral.loop.setup import resolve_config
from decentral.schedules import Progress
from decentral.schedules.phases import Phase, Phases, Track, parse_phases
from decentral.yamltext import dump

points = st.one_of(
    st.integers(0, 100).map(lambda p: Point(p / 100, "fraction")),
    st.integers(2, 500).map(lambda step: Point(float(step), "steps")),
)
windows = st.builds(Phase, points, points, st.none() | st.integers(1, 60))
phases = st.lists(windows, min_size=1, max_size=3).map(lambda some: Phases(tuple(some)))


def steps_on(found: Phases | Phase, steps: int) -> list[int]:
    return [step for step in range(steps) if found.on(Progress(step, steps))]


@given(some=phases)
def test_phases_survive_being_written(some: Phases) -> None:
    assert parse_phases([str(window) for window in some.windows]) == some


@given(window=windows, steps=st.integers(1, 300))
def test_a_window_is_on_between_its_ends_and_toggles_from_its_start(
    window: Phase, steps: int
) -> None:
    assume(abs(window.start.in_steps(steps) - round(window.start.in_steps(steps))) < 1e-9)
    assume(abs(window.stop.in_steps(steps) - round(window.stop.in_steps(steps))) < 1e-9)
    first, last = round(window.start.in_steps(steps)), round(window.stop.in_steps(steps))
    inside = [step for step in range(steps) if first <= step < last]
    if window.every is not None:
        inside = [step for step in inside if (step - first) // window.every % 2 == 0]
    assert steps_on(window, steps) == inside


@given(window=windows, steps=st.integers(1, 300))
def test_a_phase_is_refused_exactly_if_no_step_belongs_to_it(
    window: Phase, steps: int
) -> None:
    try:
        window.check("sam", steps)
    except ConfigError:
        assert steps_on(window, steps) == []
    else:
        assert steps_on(window, steps) != []


@given(some=phases, steps=st.integers(1, 200))
def test_several_windows_are_their_union(some: Phases, steps: int) -> None:
    each = {step for window in some.windows for step in steps_on(window, steps)}
    assert steps_on(some, steps) == sorted(each)


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    [
        ("75%", range(75, 100)),
        (0.75, range(75, 100)),
        (40, range(40, 100)),
        ("20% to 50%", range(20, 50)),
        ("to 30%", range(30)),
        ({"start": "90%"}, range(90, 100)),
        (["0% to 10%", "95 steps"], [*range(10), *range(95, 100)]),
        ("every 25 steps", [*range(25), *range(50, 75)]),
        ("10% to 30% every 5", [*range(10, 15), *range(20, 25)]),
    ],
    ids=str,
)
def test_spellings(spelling: object, wanted: range | list[int]) -> None:
    assert steps_on(parse_phases(spelling), 100) == list(wanted)


def test_a_run_with_a_data_budget_goes_by_samples() -> None:
    half = Phase(Point(0.5, "fraction"))
    assert not half.on(Progress(60, 100, samples=499, samples_total=1000))
    assert half.on(Progress(10, 100, samples=500, samples_total=1000))


def test_a_resolved_configuration_holds_phases_as_text_and_means_the_same() -> None:
    words = ["sam.start=75%", "label_noise.phases=[25%, 50% to 75%]"]
    noise = {"kind": "flip", "level": 0.1}
    config = make_config({"sam": 0.1, "label_noise": noise}, parse_assignments(words))
    written = resolve_config(prepare(config))
    assert written["sam"]["start"] == "75%"
    assert written["label_noise"]["phases"] == ["25%", "50% to 75%"]
    assert dump(written)
    again = make_config({key: written[key] for key in ("sam", "label_noise")})
    assert (again.sam, again.label_noise) == (config.sam, config.label_noise)


def test_later_layers_change_settings_of_a_method_and_none_turns_it_off() -> None:
    file = {"sam": {"rho": 0.2, "start": "50%"}}
    assert make_config(file, {"sam.adaptive": True}).sam.rho == 0.2  # type: ignore[union-attr]
    assert make_config(file, {"sam": None}).sam is None


# --- the timeline ---------------------------------------------------------------------------------


def track(name: str, **settings: object) -> Track:
    found = {each.name: each for each in tracks(tiny_setup(steps=200, **settings))}
    return found[name]


def test_the_timeline_shows_what_a_run_does_at_every_step() -> None:
    sam = track("SAM", sam={"rho": 0.1, "start": "75%"})
    assert sam.values == (0.0,) * 150 + (1.0,) * 50
    assert sam.text == "rho 0.1, from 75%"
    rate = track("learning rate", learning_rate="constant(lr=0.1, warmup=50%)")
    assert rate.values[:100] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert set(rate.values[99:]) == {1.0}
    assert rate.text == "0.001 to 0.1, constant"
    noise = track("label noise", label_noise={"level": 0.2, "every": 20})
    assert noise.values == ((1.0,) * 20 + (0.0,) * 20) * 5
    assert noise.text == "flip 0.2, every 20 steps"


def test_toggling_at_every_step_shows_half_however_long_the_run() -> None:
    setup = tiny_setup(steps=100_000, sam={"rho": 0.1, "every": 1})
    values = tracks(setup)[-1].values
    assert len(values) <= 4096
    assert sum(values) / len(values) == pytest.approx(0.5, abs=0.02)
