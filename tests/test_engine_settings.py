"""Settings of the engine: how they are written, merged, refused, shown and given anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import tiny_run

import decentral
from decentral.api import restart, run_config
from decentral.cli import run as cli
from decentral.cli.settings import config_of
from decentral.config import (
    ENGINE_SETTINGS,
    Engine,
    make_config,
    parse_assignments,
    read_settings,
)
from decentral.engines import engine_of
from decentral.engines.local import LocalRun
from decentral.errors import ConfigError


def engine(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of an engine by layers of settings, without defaults."""
    return make_config(*layers).engine.model_dump(exclude_unset=True)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("ray", {"name": "ray"}),
        ("ray(workers=4)", {"name": "ray", "workers": 4}),
        ("ray(4, wire=bfloat16)", {"name": "ray", "workers": 4, "wire": "bfloat16"}),
        ({"name": "auto", "workers": "auto"}, {"name": "auto", "workers": "auto"}),
        ({"workers": 4, "address": "none"}, {"workers": 4, "address": None}),
        ({"name": "ray(workers=2)", "placement": "spread"},
         {"name": "ray", "workers": 2, "placement": "spread"}),
        (Engine(name="ray", max_failures=0), {"name": "ray", "max_failures": 0}),
    ],
)  # fmt: skip
def test_an_engine_is_text_or_a_mapping(written: Any, found: dict[str, Any]) -> None:
    assert engine({"engine": written}) == found


FILE = {"engine": {"name": "ray", "placement": "spread", "workers": 3}}


@pytest.mark.parametrize(
    ("above", "found"),
    [
        ({"engine.workers": 2}, {"name": "ray", "placement": "spread", "workers": 2}),
        ({"engine": "auto"}, {"name": "auto", "placement": "spread", "workers": 3}),
        ({"engine": "ray(wire=bfloat16)"}, FILE["engine"] | {"wire": "bfloat16"}),
        ({"engine": "local"}, {"name": "local"}),
    ],
)
def test_a_flag_above_a_file_changes_what_it_names(
    above: dict[str, Any], found: dict[str, Any]
) -> None:
    assert engine(FILE, above) == found


def test_flags_stand_for_settings_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("engine: {placement: spread}\n")
    flags = {"engine": "ray", "engine.workers": "2", "engine.address": "auto"}
    found = config_of([str(tmp_path / "a.yaml"), "engine.max_failures=0"], flags).engine
    assert found == Engine(
        name="ray", workers=2, address="auto", placement="spread", max_failures=0
    )


@pytest.mark.parametrize("key", ENGINE_SETTINGS)
def test_a_flat_setting_is_refused_with_its_new_place(key: str, tmp_path: Path) -> None:
    place = rf"{key} stands under engine: write engine\.{key}=4, or engine: {{{key}: 4}} in YAML"
    with pytest.raises(ConfigError, match=f"^{place}"):
        make_config(parse_assignments([f"{key}=4"]))
    (tmp_path / "a.yaml").write_text(f"nodes: 4\n{key}: 4\n")
    with pytest.raises(ConfigError, match=rf"a\.yaml, line 2: {place}"):
        read_settings(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match=f"^{place}"):
        decentral.launch(**{key: 4})
    with pytest.raises(ConfigError, match=f"^{place}"):
        decentral.resume(tmp_path, **{key: 4})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"engine": "spark"},
            "engine = 'spark': it must be 'auto', 'local', 'ray' or 'torchrun'",
        ),
        ({"engine.worker": 4}, "engine has no setting 'worker'. Did you mean 'workers'"),
        ({"engine.workers": 0}, "engine.workers = 0: it must be at least 1"),
        (
            {"engine.progress_s": float("inf")},
            "engine.progress_s = inf: it must be a finite",
        ),
        (
            {"engine": "local(workers=2)"},
            "engine: local is this process and takes no workers",
        ),
        ({"engine": "ray(2, 3)"}, "engine: cannot read 'ray(2, 3)'; name its settings"),
        ({"engine": "ray(2, workers=3)"}, "engine: cannot read 'ray(2, workers=3)'"),
        ({"engine": 3}, "engine: cannot read 3"),
    ],
)
def test_what_no_engine_takes_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_config(settings)
    assert str(error.value).startswith(said)


@pytest.mark.needs("ray")
def test_auto_chooses_ray_for_several_workers_and_for_an_address() -> None:
    from decentral.engines.ray.run import RayRun

    for asked in ({"name": "auto", "workers": 4}, {"address": "auto"}, "ray"):
        assert engine_of(make_config({"engine": asked, "device": "cpu"})) is RayRun
    for asked in ("local", "auto", {"workers": 1}):
        assert engine_of(make_config({"engine": asked, "device": "cpu"})) is LocalRun


def test_the_list_of_settings_shows_what_stands_under_them(capsys: Any) -> None:
    assert cli(["list", "settings", "engine"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line.startswith("engine")] == [
        "engine", *(f"engine.{key}" for key in ENGINE_SETTINGS)
    ]  # fmt: skip
    assert cli(["list", "settings"]) == 0
    said = capsys.readouterr().out
    assert all(
        f"\n{key} " in said for key in ("engine", "engine.workers", "sam.rho", "out")
    )
    assert cli(["list", "settings", "engin"]) == 2
    assert "Did you mean 'engine'?" in capsys.readouterr().err


# --- a run that goes on ---------------------------------------------------------------------------


def test_a_run_of_one_process_may_go_on_with_several(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny_run(out)
    assert run_config(out).engine == Engine(name="local")
    assert run_config(out, **{"engine.workers": 2}).engine == Engine(
        name="auto", workers=2
    )
    assert run_config(out, engine="ray(workers=2)").engine == Engine(
        name="ray", workers=2
    )


def test_how_rows_travel_is_part_of_the_result(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny_run(out)
    with pytest.raises(
        ConfigError, match=r"^engine\.wire cannot change .*\(same there, bfloat16"
    ):
        restart(out, **{"engine.wire": "bfloat16"})
    assert run_config(out, engine={"wire": "bfloat16"}).engine.wire == "bfloat16"
