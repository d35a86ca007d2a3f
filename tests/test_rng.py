"""Counter-based random numbers: pure, independent, uniform; permutations without state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decentral import rng

whole = st.integers(-(2**62), 2**62)


@given(seed=st.integers(0, 2**63), counters=st.lists(whole, min_size=1, max_size=4))
def test_a_draw_is_a_pure_function_of_its_coordinates(
    seed: int, counters: list[int]
) -> None:
    assert rng.bits(seed, "a", *counters) == rng.bits(seed, "a", *counters)


@given(counters=st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True))
def test_coordinates_are_not_interchangeable(counters: list[int]) -> None:
    first, second = counters
    assert rng.bits(0, "a", first, second) != rng.bits(0, "a", second, first)
    assert rng.bits(0, "a", first) != rng.bits(0, "a", second)
    assert rng.bits(0, "a", first) != rng.bits(0, "b", first)
    assert rng.bits(first, "a", 5) != rng.bits(second, "a", 5)
    assert rng.bits(0, "a", first) != rng.bits(0, "a", first, 0)


def test_seed_and_purpose_cannot_be_confused() -> None:
    assert rng.key(1, "2/x") != rng.key(12, "/x")
    assert len({rng.key(seed, p) for seed in range(50) for p in ("", "a", "b")}) == 150


def test_vectors_equal_scalars_and_blocks_equal_their_parts() -> None:
    nodes, visits = np.arange(7)[:, None], np.arange(20)[None, :]
    block = rng.uniform(3, "x", nodes, visits)
    assert block.shape == (7, 20)
    assert all(
        block[i, k] == rng.uniform(3, "x", i, k)[0] for i in range(7) for k in range(20)
    )
    np.testing.assert_array_equal(block[2:5], rng.uniform(3, "x", nodes[2:5], visits))


@pytest.mark.parametrize("purpose", ["x", "links/0"])
def test_uniform_draws_are_uniform_and_neighbours_are_uncorrelated(purpose: str) -> None:
    from scipy import stats

    draws = rng.uniform(0, purpose, np.arange(300)[:, None], np.arange(100)[None, :])
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
    for axis in (0, 1):
        here, there = (np.delete(draws, end, axis).ravel() for end in (-1, 0))
        assert abs(np.corrcoef(here, there)[0, 1]) < 4.5 / np.sqrt(here.size)


def test_normal_draws_are_normal() -> None:
    from scipy import stats

    draws = rng.normal(0, "x", np.arange(20_000))
    assert np.isfinite(draws).all()
    assert stats.kstest(draws, "norm").pvalue > 1e-3


@given(high=st.integers(1, 10**6), seed=st.integers(0, 99))
def test_integers_lie_below_their_bound(high: int, seed: int) -> None:
    draws = rng.integers(high, seed, "x", np.arange(200))
    assert draws.min() >= 0
    assert draws.max() < high


def test_integers_are_equally_likely() -> None:
    from scipy import stats

    counts = np.bincount(rng.integers(7, 0, "x", np.arange(14_000)), minlength=7)
    assert stats.chisquare(counts).pvalue > 1e-3


@given(size=st.integers(1, 400), seed=st.integers(0, 20), epoch=st.integers(0, 99))
@settings(max_examples=60)
def test_permuted_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    found = rng.permute(np.arange(size), size, seed, "p", epoch)
    assert sorted(found.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 2**20, 2**31 + 11])
def test_permuted_stays_inside_for_any_size(size: int) -> None:
    places = np.unique(np.linspace(0, size - 1, 500).astype(np.int64))
    found = rng.permute(places, size, 0, "p")
    assert len(set(found.tolist())) == len(places)
    assert found.min() >= 0
    assert found.max() < size


def test_permuted_broadcasts_sizes_and_counters() -> None:
    sizes, nodes = np.array([[3], [5], [1]]), np.arange(3)[:, None]
    visits = np.arange(15)[None, :]
    block = rng.permute(visits % sizes, sizes, 0, "p", nodes, visits // sizes)
    for node, size in enumerate(sizes[:, 0]):
        for epoch in range(15 // size):
            part = block[node, epoch * size : (epoch + 1) * size]
            assert sorted(part.tolist()) == list(range(size))
            alone = rng.permute(np.arange(size), size, 0, "p", node, epoch)
            np.testing.assert_array_equal(part, alone)


def test_every_place_of_a_permutation_is_equally_likely() -> None:
    from scipy import stats

    size, draws = 6, 6000
    found = rng.permute(np.arange(size)[:, None], size, 0, "p", np.arange(draws)[None, :])
    for place in range(size):
        counts = np.bincount(found[place], minlength=size)
        assert stats.chisquare(counts).pvalue > 1e-4
    together = np.bincount(found[0] * size + found[1], minlength=size * size)
    assert stats.chisquare(together[together > 0]).pvalue > 1e-4
    assert (together > 0).sum() == size * (size - 1)


def test_generators_are_keyed_alike() -> None:
    one, same, other = (rng.generator(3, "g", k).random(4).tolist() for k in (1, 1, 2))
    assert one == same
    assert one != other
