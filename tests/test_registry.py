"""The registry: the signature is the schema."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example

from decentral import ConfigError, Point, plugin, plugins, registry
from decentral.plugins import find_members, modules_of
from decentral.registry import (
    KINDS,
    ConfiguredPlugin,
    Count,
    NestedPlugin,
    Positive,
    Share,
    bind,
    build,
    find,
    names,
)
from decentral.signature import parameter_of, read_arguments
from decentral.spec import parse_spec
from decentral.traits import CommunicationTraits, traits_of

MEMBERS = [(kind, name) for kind in KINDS for name in names(kind)]
every = pytest.mark.parametrize(("kind", "name"), MEMBERS)


def every_with(what: str) -> pytest.MarkDecorator:
    """Give a test every member that has some: ``settings``, or what it ``accepts``."""
    some = [member for member in MEMBERS if getattr(find(*member), what)]
    return pytest.mark.parametrize(("kind", "name"), some)


# --- every member ---------------------------------------------------------------------------------


@every
def test_every_listed_name_can_be_found_and_is_named_like_its_function(
    kind: str, name: str
) -> None:
    found = find(kind, name)
    assert (found.kind, found.name) == (kind, name)
    spoken = re.sub(
        r"(?<=[a-z])(?=[A-Z])", "_", found.target.__name__
    ).lower()  # a class: MuonLite
    assert spoken == name
    assert found.target.__module__ == find_members(KINDS[kind], kind)[name]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_from_decorators_is_what_importing_registers(kind: str) -> None:
    modules = modules_of(KINDS[kind])
    for module in modules:
        importlib.import_module(module)
    imported = {
        name
        for (registered, name), found in registry._registered.items()
        if registered == kind and found.target.__module__ in modules
    }
    assert imported == {*find_members(KINDS[kind], kind)}


def test_naming_members_and_choosing_one_imports_no_other_family() -> None:
    script = """
        import sys
        from decentral.registry import KINDS, find, names
        assert all(names(kind) for kind in KINDS)
        inner = [name for name in sys.modules if name.count(".") > 1 and "decentral" in name]
        assert all(name.startswith("decentral.traits.") for name in inner), inner
        find("communication", "late")
        assert "decentral.schedules.communication" in sys.modules
        assert "decentral.schedules.batch" not in sys.modules
        assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@every
def test_every_member_has_help_that_starts_with_one_sentence(
    kind: str, name: str
) -> None:
    first = find(kind, name).help.split("\n\n")[0]
    assert first.rstrip().endswith(".")
    assert len(first) > 10


@every
def test_a_docstring_names_only_parameters_that_there_are(kind: str, name: str) -> None:
    """What is said of single settings is shown beside them, and nowhere else."""
    found = find(kind, name)
    said = read_arguments(inspect.getdoc(found.target) or "")
    assert said.keys() <= inspect.signature(found.target).parameters.keys()
    shown = {key: setting.text for key, setting in found.settings.items()}
    assert shown == {key: said.get(parameter_of(key), "") for key in found.settings}
    assert "Args:" not in found.help


@every_with("accepts")
def test_every_setting_says_what_it_means(kind: str, name: str) -> None:
    for setting in find(kind, name).accepts.values():
        assert setting.text.endswith(".")


@every_with("settings")
def test_every_setting_is_annotated(kind: str, name: str) -> None:
    found = find(kind, name)
    for setting in found.settings.values():
        assert setting.annotation is not Any


@pytest.mark.parametrize(
    ("kind", "name"), [member for member in MEMBERS if member[0] != "metric"]
)
def test_the_resolved_mapping_builds_the_same_again(kind: str, name: str) -> None:
    once = example(kind, name)
    again = build(kind, once.spec())
    assert again.spec() == once.spec()
    assert again.settings == once.settings
    assert again.common == once.common


@every_with("accepts")
def test_unknown_settings_are_refused_with_the_nearest(kind: str, name: str) -> None:
    found = find(kind, name)
    for key in found.accepts:
        with pytest.raises(ConfigError, match="has no setting") as caught:
            bind(found, {f"{key}x": 1})
        assert key in str(caught.value)


# --- look-up --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "topology",
            "rng",
            "unknown topology 'rng'. Did you mean 'ring'? Available: barabasi_",
        ),
        ("topology", "RING", "Did you mean 'ring'?"),
        ("optimizer", "Adam", "unknown optimizer 'Adam'. Did you mean 'adamw'?"),
        ("topology", "nx:wats_strogatz_graph", "Did you mean 'watts_strogatz_graph'?"),
        ("fruit", "apple", "unknown kind of plug-in 'fruit'"),
        ("topology", "missing.graphml", "missing.graphml does not exist"),
        ("topology", "nowhere.py:f", "nowhere.py does not exist"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    kind: str, name: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        find(kind, name)
    assert message in str(caught.value)


def test_private_modules_are_no_plug_ins() -> None:
    for kind in KINDS:
        assert not [name for name in names(kind) if name.startswith("_")]


def test_names_that_are_registered_or_installed_are_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @plugin("topology")
    def wheel(n: int) -> None:
        """Turn."""

    point = EntryPoint("torus", "torus_package:torus", "decentral.topologies")
    monkeypatch.setattr(EntryPoint, "load", lambda self: lambda n: None)
    asked: list[str] = []

    def installed(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [point]

    monkeypatch.setattr(plugins, "entry_points", installed)
    assert {"wheel", "torus", "ring"} <= set(names("topology"))
    assert find("topology", "torus").name == "torus"
    assert set(asked) == {"decentral.topologies"}


def test_installed_packages_are_read_once() -> None:
    plugins._all_entry_points.cache_clear()
    for kind in ("topology", "model", "task"):
        names(kind)
    assert plugins._all_entry_points.cache_info().misses == 1


def test_a_name_can_be_taken_only_once() -> None:
    def mine(n: int) -> None:
        """Be the first."""

    def other(n: int) -> None:
        """Be late."""

    plugin("topology", name="same")(mine)
    plugin("topology", name="same")(mine)
    with pytest.raises(ConfigError, match=r"'same' is already registered by .*mine"):
        plugin("topology", name="same")(other)
    with pytest.raises(
        ConfigError, match=r"unknown kind of plug-in 'topolgy'.*'topology'"
    ):
        plugin("topolgy")


# --- settings -------------------------------------------------------------------------------------


LATE = Point(0.9, "fraction")


def sample(
    n: int,
    round: int,
    *,
    count: Count,
    share: Share = 0.5,
    size: Positive | None = None,
    at: Point = LATE,
    order: Literal["up", "down"] = "up",
    widths: tuple[Count, ...] = (1, 2),
    inner: Annotated[ConfiguredPlugin, NestedPlugin("communication")] = "none",  # type: ignore[assignment]
) -> dict[str, Any]:
    """Return what it was given."""
    return {"n": n, "round": round, "count": count, "share": share, "widths": widths}


def test_positional_parameters_are_the_runs_and_keyword_only_ones_are_settings() -> None:
    found = build_sample("sample(count=3)")
    assert found.plugin.positional() == ("n", "round")
    assert list(found.settings) == [
        "count", "share", "size", "at", "order", "widths", "inner",
    ]  # fmt: skip
    assert found(8, 2) == {"n": 8, "round": 2, "count": 3, "share": 0.5, "widths": (1, 2)}


def build_sample(text: str) -> ConfiguredPlugin:
    plugin("topology")(sample)
    return build("topology", text)


def test_settings_by_place_by_name_by_mapping_and_by_spec_are_the_same() -> None:
    wanted = build_sample("sample(3, 0.25, at=80%, inner=constant(0.2))").spec()
    assert build(
        "topology", "sample(count=3, share=0.25, at=0.8, inner=constant(0.2))"
    ).spec() == (wanted)
    mapping = {"name": "sample", "count": 3, "share": 0.25, "at": "80%"}
    mapping["inner"] = {"name": "constant", "intensity": 0.2}
    assert build("topology", mapping).spec() == wanted
    assert build("topology", parse_spec(mapping, "topology")).spec() == wanted
    assert wanted["at"] == "80%"
    assert wanted["inner"] == {"name": "constant", "intensity": 0.2, "final_merge": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample", "needs the setting 'count'; write sample(count=...)"),
        ("sample(count=0)", "count = 0: it must be at least 1."),
        ("sample(count=many)", "count = 'many': it must be a whole number."),
        ("sample(3, share=1.5)", "share = 1.5: it must be at most 1."),
        ("sample(3, size=0)", "size = 0: it must be above 0."),
        ("sample(3, size=inf)", "size = inf: it must be finite."),
        ("sample(3, share=nan)", "share = nan"),
        ("sample(3, at=1)", "a bare 1 is ambiguous"),
        ("sample(3, order=sideways)", "order = 'sideways': it must be 'up' or 'down'."),
        ("sample(3, widths=[1, 0])", "widths = [1, 0]: it must be at least 1."),
        (
            "sample(3, inner=constnt)",
            "unknown communication 'constnt'. Did you mean 'constant'?",
        ),
        (
            "sample(3, cuont=4)",
            "has no setting 'cuont'. Did you mean 'count'? Settings: at, count",
        ),
        ("sample(3, count=4)", "setting 'count' is given twice"),
        ("sample(1, 1, 1, 1, 1, 1, 1, 1)", "takes 7 settings, 8 were given"),
    ],
)
def test_a_wrong_setting_names_plug_in_key_value_and_limit(
    text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_sample(text)
    assert message in str(caught.value)
    assert "sample" in str(caught.value) or "constnt" in message
    assert len(str(caught.value).splitlines()) == 1


@given(count=st.integers(1, 10**9), share=st.floats(0, 1), value=st.floats(0, 1))
@settings(max_examples=25)
def test_valid_settings_survive_being_resolved(
    count: int, share: float, value: float
) -> None:
    found = registry._plugin_of("topology", "sample", sample, {})
    bound = bind(found, {"count": count, "share": share, "at": Point(value, "fraction")})
    spec = bound.spec()
    spec.pop("name")
    assert bind(found, spec).spec() == bound.spec()
    assert bind(found, spec).settings["at"] == Point(value, "fraction")


def test_what_a_plug_in_raises_is_its_own_mistake() -> None:
    def careless(n: int) -> float:
        """Divide."""
        return 1 / 0

    with pytest.raises(ConfigError, match="topology 'careless' raised ZeroDivisionError"):
        build("topology", careless)(3)


# --- a user's own file ----------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_function_in_a_file_is_a_plug_in_with_settings_and_traits(
    tmp_path: Path,
) -> None:
    path = written(
        tmp_path,
        """
        from __future__ import annotations
        from decentral import plugin
        from decentral.registry import Share

        def plain(progress, feedback, *, level: Share = 0.3):
            '''Talk at one level.'''
            return level

        @plugin("communication", closed_loop=True)
        def nosy(progress, feedback, *, level: Share = 0.3):
            '''Listen.'''
            return level
        """,
    )
    bound = build("communication", f"{path}:plain(level=0.7)")
    assert bound(None, None) == 0.7
    assert bound.spec()["name"] == f"{path}:plain"
    assert build("communication", bound.spec()).settings == bound.settings
    assert traits_of(
        find("communication", f"{path}:nosy"), CommunicationTraits
    ).closed_loop
    with pytest.raises(ConfigError, match="level = 2"):
        build("communication", f"{path}:plain(level=2)")


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "def wheel(n):\n    return None\nvalue = 3\n")
    with pytest.raises(ConfigError, match=r"has no 'weel'. Did you mean 'wheel'"):
        find("topology", f"{path}:weel")
    with pytest.raises(ConfigError, match="has no 'value'"):
        find("topology", f"{path}:value")
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"broken.py cannot be imported: ModuleNotFoundError"
    ):
        find("topology", f"{broken}:f")
    broken.write_text("def f(n):\n    return None\n", encoding="utf-8")
    assert find("topology", f"{broken}:f").name == "f"
