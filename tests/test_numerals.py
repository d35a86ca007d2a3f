"""Numbers, truths and nothing: the same in YAML, on the command line, in sweeps, in Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from decentral import ConfigError
from decentral.cli.settings import read_words
from decentral.config import (
    file_faults,
    make_config,
    parse_assignments,
    read_settings,
    resolve_aliases,
)
from decentral.registry import build
from decentral.spec import parse_value, spell
from decentral.sweeps.points import read_sweep


def from_yaml(folder: Path, key: str, text: str) -> Any:
    place = folder / "a.yaml"
    place.write_text(f"# a comment\n{key}: {text}\n")
    return getattr(make_config(read_settings(place)), key)


def from_line(key: str, text: str) -> Any:
    return getattr(
        make_config(resolve_aliases(parse_assignments([f"{key}={text}"]))), key
    )


def from_sweep(key: str, text: str) -> Any:
    found = read_sweep(None, [f"{key}={text}", "local_steps=1,2"], {})
    return getattr(found.points[0].config, key)


def from_python(key: str, text: str) -> Any:
    return getattr(make_config({key: text}), key)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "1e3", 1000),
        ("steps", "1_000", 1000),
        ("steps", "0x10", 16),
        ("steps", "0o17", 15),
        ("clip", "1e-1", 0.1),
        ("clip", ".5", 0.5),
        ("clip", "none", None),
        ("clip", "null", None),
        ("learning_rate", "1e-3", {"name": "constant", "lr": 0.001}),
        ("batch", "1e1", {"name": "constant", "size": 10}),
        ("mix_state", "true", True),
        ("mix_state", "yes", True),
        ("mix_state", "off", False),
        ("communication", "none", "none"),
        ("data", "none", None),
        ("data", "2000", "2000 samples"),
    ],
)
def test_a_value_means_the_same_wherever_it_is_written(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    found = from_yaml(tmp_path, key, text), from_line(key, text), from_sweep(key, text)
    assert [*found, from_python(key, text)] == [value] * 4


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("steps", "010", "010 begins with 0; write 10, or quote it as text"),
        ("seed", "08", "08 begins with 0; write 8"),
        ("steps", "1:30", "1:30 might be minutes and seconds; write a number"),
        ("learning_rate", "01", "01 begins with 0; write 1"),
        ("steps", "yes", "it must be a whole number"),
        ("steps", "1.5", "it must be a whole number"),
        ("steps", "none", "it must be a whole number"),
        ("steps", "1e400", "it must be a finite number"),
        ("mix_state", "2", "it must be true or false"),
    ],
)
def test_what_is_a_number_to_some_readers_only_is_refused_by_all(
    tmp_path: Path, key: str, text: str, reason: str
) -> None:
    for read in (
        from_line,
        from_sweep,
        from_python,
        lambda k, t: from_yaml(tmp_path, k, t),
    ):
        with pytest.raises(ConfigError, match=reason):
            read(key, text)


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("clip", "0,5", r"0,5 is no number; write 0.5, \[0, 5\] for a list, or quote"),
        ("learning_rate", "0,05", r"0,05 is no number; write 0.05, "),
        ("steps", "1,000", "1,000 is no number; write 1000 or 1.000, or quote it"),
        ("steps", "-1,000,000", "is no number; write -1000000, or quote it"),
    ],
)
def test_numbers_with_a_comma_are_refused_with_what_to_write(
    tmp_path: Path, key: str, text: str, reason: str
) -> None:
    """In a sweep a comma stands between two values."""
    for read in (from_line, from_python, lambda k, t: from_yaml(tmp_path, k, t)):
        with pytest.raises(ConfigError, match=reason):
            read(key, text)


def test_true_is_no_one(tmp_path: Path) -> None:
    """To pydantic it is: ``steps: true`` would be one step."""
    for key in ("steps", "seed", "clip", "eval_every"):
        for read in (lambda k, t: from_yaml(tmp_path, k, t), from_line, from_sweep):
            with pytest.raises(ConfigError, match=rf"{key} = true: it must be a number"):
                read(key, "true")
        with pytest.raises(ConfigError, match=rf"{key} = true: it must be a number"):
            make_config({key: True})
    for spec in ("sgd(momentum=true)", {"name": "sgd", "momentum": True}):
        with pytest.raises(
            ConfigError, match=r"'sgd': momentum = true: it must be a number"
        ):
            build("optimizer", spec)
    with pytest.raises(ConfigError, match="hidden = true: it must be a number"):
        build("model", "mlp(hidden=[64, true])")
    with pytest.raises(ConfigError, match="engine = true: it must be a number"):
        make_config({"engine": {"name": "ray", "workers": True}})


def test_text_that_is_a_number_fits_a_setting_that_is_one() -> None:
    found = build("optimizer", {"name": "sgd", "momentum": "9e-1"})
    assert found.settings["momentum"] == 0.9


# --- mappings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=muon_lite(chi={embedding=1, norm=2})"],
        ["optimizer=muon_lite(chi={embedding: 1, norm: 2})"],
        ["optimizer=muon_lite", "optimizer.chi={embedding: 1, norm=2}"],
        ["optimizer=muon_lite", "optimizer.chi.embedding=1", "optimizer.chi.norm=2"],
        ["optimizer={name: muon_lite, chi: {embedding: 1, norm: 2}}"],
    ],
)
def test_a_mapping_can_be_written_everywhere(words: list[str]) -> None:
    made = make_config(resolve_aliases(parse_assignments(words))).optimizer
    found = build("optimizer", made)
    assert found.name == "muon_lite"
    assert found.settings["chi"] == {"embedding": 1, "norm": 2}


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=muon_lite(chi={norm=1})", "optimizer.chi.norm=2"],
        ["optimizer={name: muon_lite, chi: {norm: 1}}", "optimizer.chi.norm=2"],
        ["optimizer=muon_lite", "optimizer.chi={norm: 1}", "optimizer.chi.norm=2"],
    ],
)
def test_a_setting_within_a_mapping_is_given_once(
    tmp_path: Path, words: list[str]
) -> None:
    message = r"norm of optimizer(\.chi)? = 1 and optimizer\.chi\.norm = 2 are the same"
    with pytest.raises(ConfigError, match=message):
        read_words(words, {})
    place = tmp_path / "a.yaml"
    place.write_text("".join(f"{word.replace('=', ': ', 1)}\n" for word in words))
    assert [fault for fault in file_faults(place) if re.search(message, fault.text)]
    assert read_words([*words[:-1], "optimizer.chi.embedding=2"], {})


def test_settings_of_a_plug_in_within_another_are_reached() -> None:
    words = ["communication=every(k=2, schedule=late(start=50%))"]
    words.append("communication.schedule.intensity=0.5")
    made = make_config(resolve_aliases(parse_assignments(words))).communication
    inner = build("communication", made).settings["schedule"]
    assert str(inner.settings["start"]) == "50%"
    assert inner.settings["intensity"] == 0.5
    with pytest.raises(ConfigError, match=r"optimizer.momentum = 0.5 has no settings"):
        make_config(
            {"optimizer": {"name": "sgd", "momentum": 0.5}}, {"optimizer.momentum.x": 1}
        )
    with pytest.raises(ConfigError, match="name the settings of 'late'"):
        make_config({"communication": "every(k=2, schedule=late(50%))"},
                    {"communication.schedule.intensity": 1})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{a", "missing '=' or ':'|a key is missing"),
        ("{a: 1, a: 2}", "'a' is given twice"),
        ("{a: 1", r"missing '\}'"),
        ("{a: 1} b", "unexpected text"),
    ],
)
def test_a_mapping_that_is_none_is_refused_at_its_column(text: str, reason: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"x: ({reason}) at column .*like \{{key: value"
    ):
        parse_value(text, "x")


@pytest.mark.parametrize(
    "value", [{"a b": 1, 3: {"x": "y"}}, {"1:30": "010", "it's": [1, {"k": None}]}, {}]
)
def test_what_is_spelled_is_read_back(value: Any) -> None:
    assert parse_value(spell(value).replace("None", "none"), "x") == value
