"""Laws of networks and of seconds of computing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example

from decentral.network import presets
from decentral.network.compute import seconds_of
from decentral.network.links import gossip
from decentral.registry import names
from decentral.traits import ComputeTraits, traits_of

networks = pytest.mark.parametrize("name", names("network"))
computes = pytest.mark.parametrize("name", names("compute"))


@networks
@pytest.mark.parametrize("nodes", [1, 2, 3, 16])
def test_every_node_reaches_every_other_at_a_cost(name: str, nodes: int) -> None:
    network, _ = presets.make(example("network", name), nodes)
    assert network.nodes == nodes
    one, other = (ends.ravel() for ends in np.indices((nodes, nodes)))
    apart = one != other
    latency_s, bandwidth_Bps = network.cost(one[apart], other[apart])
    assert (latency_s > 0).all()
    assert (latency_s < 1).all()
    assert (bandwidth_Bps > 1e5).all()
    assert (network.up_Bps > 1e5).all()
    assert (network.down_Bps > 1e5).all()
    backwards = network.cost(other[apart], one[apart])
    assert (backwards[0] == latency_s).all()
    assert (backwards[1] == bandwidth_Bps).all()


@networks
def test_nobody_hears_a_message_before_it_was_sent(name: str) -> None:
    network, _ = presets.make(example("network", name), 6)
    ready_s = np.arange(6.0)
    senders, receivers = np.array([5, 5, 4]), np.array([0, 1, 0])
    done_s = gossip(network, ready_s, senders, receivers, 1e6)
    assert (done_s[[0, 1]] > 5).all()
    assert done_s[[2, 3]].tolist() == [2, 3]


@computes
@given(
    seed=st.integers(0, 99), step=st.integers(0, 5000), ids=st.sets(st.integers(0, 999))
)
@settings(max_examples=20)
def test_seconds_are_positive_and_a_function_of_node_and_step(
    name: str, seed: int, step: int, ids: set[int]
) -> None:
    rule = example("compute", name)
    all_s = seconds_of(rule, np.arange(1000), step, seed)
    assert all_s.shape == (1000,)
    assert (all_s > 0).all()
    assert np.isfinite(all_s).all()
    some = np.array(sorted(ids), dtype=np.int64)
    assert (seconds_of(rule, some, step, seed) == all_s[some]).all()


@pytest.mark.parametrize("name", names("compute"))
def test_work_scales_seconds(name: str) -> None:
    """A step of twice the samples takes at least twice as long; a machine may be away."""
    rule, nodes = example("compute", name), np.arange(64)
    once, twice = (seconds_of(rule, nodes, 3, 1, None, amount) for amount in (1.0, 2.0))
    away_s = traits_of(rule, ComputeTraits).away_s
    if away_s is None:
        assert (twice == 2 * once).all()
    else:
        at_once = [i for i in nodes.tolist() if not away_s(i, 0.0, 1, rule.settings)]
        assert 0 < len(at_once) < 64
        np.testing.assert_allclose(twice[at_once], 2 * once[at_once], rtol=1e-12)
        assert (twice > once).all()


#: Whose first setting is a duration.
LASTING = [
    name
    for name in names("compute")
    if isinstance(next(iter(example("compute", name).settings.values())), float)
]


@pytest.mark.parametrize("name", LASTING)
def test_seconds_scale_with_their_unit(name: str) -> None:
    """A setting that is a duration is one: twice as long is twice as long."""
    rule = example("compute", name)
    key = next(iter(rule.settings))
    twice = {**rule.settings, key: 2 * rule.settings[key]}
    nodes = np.arange(64)
    slow_s = rule.plugin.target(nodes, 3, 1, **twice)
    np.testing.assert_allclose(slow_s, 2 * rule(nodes, 3, 1), rtol=1e-15)
