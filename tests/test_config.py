"""Configurations: layers, each key once, and nothing that is not understood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decentral import ConfigError
from decentral.config import (
    Config,
    as_mapping,
    make_config,
    merge_layers,
    parse_assignments,
    read_file,
    read_settings,
    resolve_aliases,
)
from decentral.loop.preparing import prepare
from decentral.loop.setup import resolve_config
from decentral.yamltext import dump, load

plain = st.fixed_dictionaries(
    {},
    optional={
        "nodes": st.integers(1, 99),
        "seed": st.integers(0, 99),
        "communication": st.sampled_from(["late", "constant(0.3)", "window(start=40%)"]),
        "optimizer": st.sampled_from(["sgd", "adamw", {"name": "sgd", "momentum": 0.5}]),
        "learning_rate": st.floats(0.01, 1)
        | st.sampled_from(["cosine", "wsd(floor=0.1)"]),
    },
)
dotted = st.fixed_dictionaries(
    {},
    optional={
        "communication.final_merge": st.booleans(),
        "optimizer.weight_decay": st.floats(0, 1),
        "learning_rate.lr": st.floats(0.01, 1),
    },
)
layers = st.tuples(plain, dotted).map(lambda pair: {**pair[0], **pair[1]})


# --- layers ---------------------------------------------------------------------------------------


@given(below=layers, above=layers)
def test_the_upper_layer_wins_and_the_lower_shows_through(below: Any, above: Any) -> None:
    merged = merge_layers(below, above)
    for key in ("nodes", "seed"):
        if key in above or key in below:
            assert merged[key] == above.get(key, below.get(key))
    for key, value in above.items():
        part, _, setting = key.partition(".")
        if setting:
            assert merged[part][setting] == value


@given(first=layers, second=layers, third=layers)
def test_layers_can_be_merged_in_any_grouping(
    first: Any, second: Any, third: Any
) -> None:
    assert merge_layers(merge_layers(first, second), third) == merge_layers(
        first, second, third
    )
    assert merge_layers(first, {}) == merge_layers(first) == merge_layers({}, first)
    assert merge_layers(first, first) == merge_layers(first)


@given(layer=layers, draw=st.randoms(use_true_random=False))
def test_the_order_of_keys_within_a_layer_does_not_matter(layer: Any, draw: Any) -> None:
    items = list(layer.items())
    draw.shuffle(items)
    assert merge_layers(dict(items)) == merge_layers(layer)


def test_a_name_replaces_and_a_mapping_without_a_name_changes() -> None:
    below = {"communication": "late(80%, intensity=0.2)"}
    assert merge_layers(below, {"communication": "linear"}) == {"communication": "linear"}
    changed = merge_layers(below, {"communication": {"then": 0.5}})
    assert changed["communication"] == {
        "name": "late", "start": "80%", "intensity": 0.2, "then": 0.5,
    }  # fmt: skip
    changed = merge_layers({}, {"optimizer.momentum": 0.5})
    assert changed["optimizer"] == {"name": "sgd", "momentum": 0.5}
    changed = merge_layers({"learning_rate": 0.1}, {"learning_rate.warmup": "5%"})
    assert changed["learning_rate"] == {
        "name": "constant", "lr": 0.1, "warmup": "5%",
    }  # fmt: skip


def test_settings_of_the_default_may_be_changed_without_naming_it() -> None:
    assert make_config({"algorithm": {"order": "combine_then_adapt"}}).algorithm == {
        "name": "dsgd", "order": "combine_then_adapt",
    }  # fmt: skip
    assert make_config({"task": {"val": 0.1}}).task == {"name": "digits", "val": 0.1}


def test_a_task_recommends_below_everything_the_user_says() -> None:
    config = make_config({"task": "quadratic"})
    assert config.steps == 500
    assert config.optimizer["momentum"] == 0.0
    config = make_config(
        {"task": "quadratic(dimension=3)", "steps": 20, "optimizer": "adamw"}
    )
    assert (config.steps, config.optimizer) == (20, "adamw")
    assert (
        make_config({"task": "quadratic", "learning_rate.lr": 0.3}).learning_rate["lr"]
        == 0.3
    )
    assert make_config({}).steps == 3000


def test_bare_numbers_are_the_peak_rate_and_the_batch_size() -> None:
    config = make_config({"learning_rate": 0.1, "batch": 16})
    assert config.learning_rate == {"name": "constant", "lr": 0.1}
    assert config.batch == {"name": "constant", "size": 16}


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"node": 8}, "unknown setting 'node'. Did you mean 'nodes'?"),
        ({"final_merge": True}, "communication: write communication.final_merge=true"),
        ({"momentum": 0.9}, "It is a setting of optimizer: write optimizer.momentum=0.9"),
        ({"optimizer": "lion", "momentum": 0.9}, "unknown setting 'momentum'."),
        ({"optimizer": {"name": "adamw"}, "eps": 1}, "write optimizer.eps=1"),
        ({"epochs": 3}, "write data='3 epochs'"),
        ({"topolgy.p": 0.2}, "unknown setting 'topolgy'. Did you mean 'topology'?"),
        ({"nodes.x": 1}, "'nodes' has no settings of its own"),
        ({"nodes": 0}, "nodes = 0"),
        ({"steps": -5}, "steps = -5"),
        ({"nodes": "many"}, "nodes = 'many'"),
        ({"nodes": 1.5}, "nodes = 1.5"),
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"clip": 0}, "clip = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (
            {"algorithm": "allreduce", "topology": "ring"},
            "algorithm 'allreduce' takes no topology",
        ),
        ({"algorithm": "allreduce", "communication": "late"}, "takes no communication"),
        (
            {"algorithm": "local", "topology.p": 0.3},
            "algorithm 'local' takes no topology",
        ),
        (
            {"algorithm": "alreduce"},
            "unknown algorithm 'alreduce'. Did you mean 'allreduce'?",
        ),
        ({"task": "digit"}, "unknown task 'digit'. Did you mean 'digits'?"),
    ],
)
def test_mistakes_name_the_setting_and_the_remedy(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("key", list(Config.model_fields))
def test_every_setting_is_described_and_a_typo_in_it_finds_it(key: str) -> None:
    assert Config.model_fields[key].description
    with pytest.raises(ConfigError, match=f"Did you mean '{key}'"):
        make_config({f"{key}_": 1})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_config({}).nodes = 3  # type: ignore[misc]


# --- files and flags ------------------------------------------------------------------------------


@given(settings=layers)
def test_a_configuration_survives_yaml(settings: Any) -> None:
    assert load(dump(merge_layers(settings))) == merge_layers(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [1, 2\nsteps: 3", "line 2, column"),
        ("nodes: 8\n\tsteps: 3", "not valid YAML"),
        ("- nodes", "must be a mapping of settings, such as 'nodes: 16'"),
        ("", "must be a mapping"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=r"configuration .*run\.yaml") as caught:
        read_file(path)
    assert message in str(caught.value)


def test_missing_files_and_folders_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist; check the path"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(tmp_path)


def test_assignments_are_parsed_and_short_names_replaced() -> None:
    given = parse_assignments(
        ["nodes=8", "model.hidden=[64, 64]", "schedule=none", "clip=none"]
    )
    assert given == {
        "nodes": 8,
        "model.hidden": [64, 64],
        "schedule": "none",
        "clip": None,
    }
    assert resolve_aliases({"schedule.start": "80%", "lr": 0.1}) == {
        "communication.start": "80%", "learning_rate.lr": 0.1,
    }  # fmt: skip
    for wrong in ("nodes", "=8"):
        with pytest.raises(ConfigError, match="write settings as key=value"):
            parse_assignments([wrong])
    with pytest.raises(ConfigError, match="the same setting"):
        resolve_aliases({"schedule": "late", "communication": "none"})


def test_as_mapping_names_positional_settings() -> None:
    assert as_mapping("communication", "late(80%, 0.2)") == {
        "name": "late", "start": "80%", "intensity": 0.2,
    }  # fmt: skip
    assert as_mapping("batch", 32) == {"name": "constant", "size": 32}


# --- the resolved configuration -------------------------------------------------------------------

COMBINATIONS: list[dict[str, Any]] = [
    {},
    {"task": "quadratic", "nodes": 5},
    {"algorithm": "allreduce"},
    {"algorithm": "local", "optimizer": "torch.optim.RAdam(betas=[0.8, 0.9])"},
    {
        "topology": "one_peer_exponential",
        "model": "cnn(norm=batch)",
        "sampling": "resample",
    },
    {"topology": "nx:watts_strogatz_graph(k=4,p=0.3)", "weights": "uniform"},
    {
        "communication": "scale_to_budget(schedule=linear(0.1, 0.9), budget=2%)",
        "mix_state": True,
    },
    {"communication": "switch(before=none, after=every(k=3), at=33.3%)", "clip": 1.0},
    {"learning_rate": "wsd(decay=0.3333333333333333, lr=0.1)", "split": "classes(k=3)"},
]


@pytest.mark.parametrize("given", COMBINATIONS, ids=str)
def test_the_resolved_configuration_resolves_to_itself(given: dict[str, Any]) -> None:
    once = resolve_config(prepare(make_config({"steps": 400}, given)))
    text = dump(once)
    assert set(once) == set(Config.model_fields)
    assert dump(resolve_config(prepare(make_config(load(text))))) == text


@given(start=st.floats(0, 1), intensity=st.floats(0, 1), lr=st.floats(1e-6, 10))
@settings(max_examples=10)
def test_numbers_survive_being_resolved_bit_by_bit(
    start: float, intensity: float, lr: float
) -> None:
    rule = {
        "name": "late",
        "start": start if start % 1 else f"{start:.0%}",
        "intensity": intensity,
    }
    asked = {"task": "quadratic", "communication": rule, "learning_rate.lr": lr}
    once = prepare(make_config(asked))
    again = prepare(make_config(load(dump(resolve_config(once)))))
    assert once.planner is not None
    assert again.planner is not None
    assert again.planner.schedule == once.planner.schedule
    assert again.learning_rate == once.learning_rate


def test_the_path_of_a_task_is_a_setting_like_any_other() -> None:
    """Alone, ``path`` names a plug-in file; behind a dot it changes the part below."""
    config = make_config({"task": "cifar10"}, {"task.path": "data/cifar10"})
    assert config.task == {"name": "cifar10", "path": "data/cifar10"}


# --- scalars of YAML ------------------------------------------------------------------------------


def in_yaml(folder: Path, text: str) -> dict[str, Any]:
    (folder / "run.yaml").write_text(text)
    return read_file(folder / "run.yaml")


def test_yaml_reads_numbers_as_the_command_line_does(tmp_path: Path) -> None:
    found = in_yaml(tmp_path, "learning_rate: 1e-3\nbatch: 1e1\nclip: 1_000\nout: yes\n")
    assert found == {"learning_rate": 1e-3, "batch": 10.0, "clip": 1000, "out": "yes"}
    config = make_config(found)
    assert config.learning_rate == {"name": "constant", "lr": 1e-3}
    assert make_config({"learning_rate": "1e-3"}) == make_config({"learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "nodes: 4\nsteps: 010\n",
            "line 2, column 8: not valid YAML (010 begins with 0; write 10",
        ),
        (
            "nodes: 4\nnodes: 8\n",
            "line 2, column 1: not valid YAML ('nodes' is given twice",
        ),
    ],
)
def test_yaml_that_reads_otherwise_than_meant_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        in_yaml(tmp_path, text)
    assert message in str(caught.value)


def test_short_names_work_in_yaml(tmp_path: Path) -> None:
    found = in_yaml(tmp_path, "lr: 0.1\nschedule: late\n")
    assert found == {"learning_rate.lr": 0.1, "communication": "late"}
    assert in_yaml(tmp_path, "on: 3\n") == {"on": 3}


@example(value="a\x85b\u2028c\u2029")
@given(
    value=st.text(max_size=8) | st.floats(allow_nan=False) | st.integers() | st.booleans()
)
@example("1e-3")
@example("010")
@example("None")
@example("1:30")
@example("yes")
def test_what_is_dumped_is_loaded_as_the_same(value: Any) -> None:
    assert load(dump({"out": value})) == {"out": value}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clip: None", r"line 2, column 7: .*None is text in YAML; write null"),
        ("optimizer: {name: sgd, momentum: None}", r"line 2, column 34: .*write null"),
        ("compute: 1:30", r"line 2, column 10: .*1:30 might be minutes and seconds"),
        ("on: 3", r"line 2: unknown setting 'on'"),
        ("stepz: 3", r"line 2: unknown setting 'stepz'. Did you mean 'steps'"),
        ("sweep: {seed: [1, 2]}", r"line 2: this configuration describes a sweep"),
    ],
)
def test_a_slip_in_yaml_is_named_by_its_line(
    tmp_path: Path, line: str, said: str
) -> None:
    (tmp_path / "run.yaml").write_text(f"nodes: 4\n{line}\n")
    with pytest.raises(ConfigError, match=rf"run\.yaml, {said}"):
        read_settings(tmp_path / "run.yaml")


def test_none_in_yaml_is_that_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("clip: none\nschedule: none\ndata: 'none'\n")
    found = make_config(read_settings(tmp_path / "run.yaml"))
    assert (found.clip, found.communication, found.data) == (None, "none", None)
