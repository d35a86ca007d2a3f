"""Every member of every kind that acts on what is sent, on the Ray engine: digits, 16 nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_pairs import OTHERS, asked, talkative
from test_ray_failures import events, last_rows

import decentral
from decentral.registry import find, names
from decentral.traits import AlgorithmTraits, traits_of

pytestmark = [
    pytest.mark.needs("ray"),
    pytest.mark.soak,
    pytest.mark.usefixtures("ray_cluster"),
]

SETTINGS: dict[str, Any] = {
    "task": "digits", "model": "mlp(hidden=[16])", "nodes": 16, "split": "dirichlet(0.1)",
    "steps": 60, "local_steps": 2, "dtype": "float64", "mixing": "ordered", "replicas": "vmap",
    "eval_every": 30, "threads": 1, "seed": 3,
}  # fmt: skip
ROUNDS = {"topology": "ring", "communication": "constant"}


def settings_of(kind: str, name: str) -> dict[str, Any]:
    """Return a run that shows a member, in the company that suits it."""
    if kind != "algorithm":
        return SETTINGS | ROUNDS | asked({kind: name})
    rounds = ROUNDS if talkative(name) else {}
    suits = traits_of(find(kind, name), AlgorithmTraits).defaults
    return SETTINGS | rounds | suits | asked({kind: name})


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("algorithm", *OTHERS) for name in names(kind)],
)
def test_two_actors_end_where_one_process_ends(
    kind: str, name: str, tmp_path: Path
) -> None:
    """The same bits, unless something was averaged over all nodes."""
    asked_for = settings_of(kind, name)
    one, two = (
        decentral.launch(**asked_for, engine=engine, out=str(tmp_path / engine[:3]))
        for engine in ("local", "ray(workers=2)")
    )
    found, expected = last_rows(two.path), last_rows(one.path)
    traits = find(kind, name).traits
    steps = isinstance(traits, AlgorithmTraits) and traits.communicates == "steps"
    if steps or events(one.path, "merge"):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert torch.equal(found, expected)
    for key in ("accuracy/local_mean", "accuracy/merged", "loss/merged"):
        assert two.summary["final"][key] == pytest.approx(
            one.summary["final"][key], rel=1e-9
        )
    for key in ("bytes", "messages", "rounds"):
        assert (
            two.summary["counters"][f"comm/{key}"]
            == one.summary["counters"][f"comm/{key}"]
        )
    assert (two.summary["counters"]["comm/wire_bytes"] > 0) == (
        two.summary["counters"]["comm/bytes"] > 0
    )
