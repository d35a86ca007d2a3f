"""Traits: every kind says what its members may declare, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, Literal, get_type_hints

import pytest

from decentral import ConfigError, plugin
from decentral.algorithms.base import CONDITIONS
from decentral.registry import KINDS, Plugin, bind, find, names
from decentral.signature import read_attributes
from decentral.traits import (
    TRAITS,
    Condition,
    FaultTraits,
    MergeTraits,
    Traits,
    declare,
    fits,
    in_words,
    traits_of,
)

MEMBERS = [(kind, name) for kind in KINDS for name in names(kind)]
DECLARABLE = [(kind, one.name) for kind in KINDS for one in fields(TRAITS[kind])]
COMMON = [(kind, key) for kind in KINDS for key in find(kind, names(kind)[0]).common]
#: What a member must declare at least.
NEEDED: dict[str, dict[str, Any]] = {
    "fault": {"strikes": "nodes"},
    "claim": {"paper": "nobody", "says": "It works.", "expect": ()},
}
#: What a setting of a kind may be that is unset by default, and no number.
VALID: dict[str, Any] = {"nodes": [1], "blockwise": True}

every = pytest.mark.parametrize("kind", KINDS)
every_member = pytest.mark.parametrize(("kind", "name"), MEMBERS)
every_trait = pytest.mark.parametrize(("kind", "trait"), DECLARABLE)


def register(kind: str, **declared: Any) -> Plugin:
    def mine(*given: Any) -> None:
        """Do nothing with whatever the run gives."""

    plugin(kind, f"mine_{kind}", **NEEDED.get(kind, {}) | declared)(mine)
    return find(kind, f"mine_{kind}")


def refused(kind: str, **declared: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        register(kind, **declared)
    said = str(caught.value)
    assert said.startswith(f"{kind} 'mine_{kind}'")
    assert len(said.splitlines()) == 1
    return said


# --- kinds ----------------------------------------------------------------------------------------


def test_every_kind_has_a_class_of_traits() -> None:
    assert TRAITS.keys() == KINDS.keys()


@every
def test_every_trait_says_what_it_promises(kind: str) -> None:
    said = read_attributes(TRAITS[kind])
    assert said.keys() == get_type_hints(TRAITS[kind]).keys()
    assert all(text.endswith(".") for text in said.values())


@every
def test_traits_cannot_be_changed(kind: str) -> None:
    made = TRAITS[kind](**NEEDED.get(kind, {}))
    with pytest.raises(FrozenInstanceError):
        made.example = "other"  # type: ignore[misc]


def test_conditions_of_soundness_have_words() -> None:
    assert set(Condition.__args__) == CONDITIONS.keys()


# --- members --------------------------------------------------------------------------------------


@every_member
def test_what_a_member_declares_is_of_the_declared_types_and_makes_the_same_again(
    kind: str, name: str
) -> None:
    found = find(kind, name)
    assert type(found.traits) is TRAITS[kind]
    given = {one.name: getattr(found.traits, one.name) for one in fields(found.traits)}
    for key, wanted in get_type_hints(TRAITS[kind]).items():
        assert fits(given[key], wanted), key
    assert declare(kind, name, given, found.settings, found.common) == found.traits


@every
def test_without_a_word_a_member_has_the_defaults(kind: str) -> None:
    assert register(kind).traits == TRAITS[kind](**NEEDED.get(kind, {}))


# --- what is refused ------------------------------------------------------------------------------


@every_trait
def test_a_misspelt_trait_is_refused_with_the_nearest_name(kind: str, trait: str) -> None:
    wrong = trait[:-2] + trait[-1]
    said = refused(kind, **{wrong: True})
    assert f"has no trait {wrong!r}. Did you mean {trait!r}? Available: " in said
    assert all(one.name in said for one in fields(TRAITS[kind]))


class Thing:
    """What no trait can be, not even a function."""


@every_trait
def test_an_ill_typed_trait_is_refused_with_what_is_expected(
    kind: str, trait: str
) -> None:
    wanted = get_type_hints(TRAITS[kind])[trait]
    said = refused(kind, **{trait: Thing()})
    assert said.endswith(f": trait {trait} = a Thing: it must be {in_words(wanted)}.")


@pytest.mark.parametrize(
    ("kind", "trait"), [(k, t) for k, given in NEEDED.items() for t in given]
)
def test_what_a_member_must_declare_is_asked_for(
    kind: str, trait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = {key: value for key, value in NEEDED[kind].items() if key != trait}
    monkeypatch.setitem(NEEDED, kind, without)
    assert f"needs the trait {trait}: " in refused(kind)


@pytest.mark.parametrize(
    ("value", "wanted", "right"),
    [
        (True, int, False),
        (1, float, True),
        ("1", float, False),
        (("a",), tuple[str, ...], True),
        ("a", tuple[str, ...], False),
        ((1,), tuple[str, ...], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": "b"}, Mapping[str, int], False),
        ({1: 1}, Mapping[str, int], False),
        (len, Callable[[Any], int], True),
        ("len", Callable[[Any], int], False),
        ("up", Literal["up", "down"], True),
        (["up"], Literal["up", "down"], False),
        (None, str | None, True),
        (None, str, False),
    ],
)
def test_values_fit_their_types_without_being_converted(
    value: object, wanted: Any, right: bool
) -> None:
    assert fits(value, wanted) is right


# --- what the kind's settings are for a member ----------------------------------------------------


@pytest.mark.parametrize(("kind", "key"), COMMON)
def test_a_member_may_say_the_default_of_a_setting_of_its_kind(
    kind: str, key: str
) -> None:
    """Any valid value: here what another member says, or one."""
    values = [find(kind, name).common[key].default for name in names(kind)]
    given = next(
        (value for value in reversed(values) if value is not None), VALID.get(key, 1)
    )
    found = register(kind, **{key: given})
    assert (
        bind(found, {}).common[key] == bind(found, {key: given}).common[key] is not None
    )
    assert found.common.keys() == find(kind, names(kind)[0]).common.keys()
    assert key not in get_type_hints(type(found.traits))


@pytest.mark.parametrize(("kind", "key"), COMMON)
def test_an_ill_typed_default_is_refused(kind: str, key: str) -> None:
    assert f"{key} = " in refused(kind, **{key: Thing()})


# --- reading --------------------------------------------------------------------------------------


def test_traits_are_read_as_those_of_their_kind_only() -> None:
    slerp = find("merge", "slerp")
    assert traits_of(slerp, MergeTraits).nodes == 2
    assert traits_of(slerp, Traits) is slerp.traits
    with pytest.raises(AssertionError, match="MergeTraits are not FaultTraits"):
        traits_of(slerp, FaultTraits)
    other = replace(slerp, traits=MergeTraits(nodes=3))
    assert traits_of(other, MergeTraits).nodes == 3
