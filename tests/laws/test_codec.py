"""Laws of codecs: each row by itself, fewer bytes, the mean kept, and nodes that come together."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support import connected, example, exchanges, silent, tiny_block, together
from torch import Tensor

from decentral.exchange.codec.base import (
    CodecContext,
    RngContext,
    TensorLayout,
    coded_bytes,
    innermost,
)
from decentral.loop.block import Block
from decentral.loop.rounds import checkpoint_of, restore
from decentral.network import preview
from decentral.registry import ConfiguredPlugin, build, find, names
from decentral.traits import CodecTraits, traits_of

LAYOUT = TensorLayout(((0, 240, (12, 20)), (240, 252, (12,))), itemsize=8)
on_every_codec = pytest.mark.parametrize("name", names("codec"))


def rows(nodes: int = 4) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    found = torch.randn(nodes, 256, dtype=torch.float64, generator=draw)
    found[:, 252:] = 0  # padding
    return found


def usable(name: str) -> ConfiguredPlugin:
    """Return a codec as a run would have it: a biased one within choco."""
    biased = traits_of(find("codec", name), CodecTraits).biased
    return (
        build("codec", f"choco(codec={name}, step=0.1)")
        if biased
        else example("codec", name)
    )


def talking(codec: ConfiguredPlugin, **settings: Any) -> Block:
    """Return a block without gradients, whose nodes begin in different places."""
    plain = {
        "task": "quadratic(dimension=40)", "nodes": 5, "dtype": "float64", "topology": "ring",
        "communication": "constant", "local_steps": 1, "steps": 400, "codec": codec,
        "mixing": "ordered", "learning_rate": 0.0001,
    }  # fmt: skip
    block = tiny_block(**{**plain, **settings})
    block.rows.copy_(torch.linspace(-1, 2, block.rows.numel()).view_as(block.rows).sin())
    block.x[:, 40:] = 0
    return block


def walk(block: Block, steps: int) -> None:
    for _ in range(steps):
        block.combine(block.decide())
        block.finish_step()


@on_every_codec
def test_a_row_is_coded_as_if_it_were_alone(name: str) -> None:
    codec, block = example("codec", name), rows()
    together_ = codec(block, LAYOUT, RngContext(1, "x", 3, range(4)))
    alone = [
        codec(block[i : i + 1], LAYOUT, RngContext(1, "x", 3, [i])) for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), together_, rtol=1e-12, atol=1e-12)
    assert torch.equal(codec(block, LAYOUT, RngContext(1, "x", 3, range(4))), together_)
    assert (together_[:, 252:] == 0).all()


@on_every_codec
def test_what_is_left_is_nearer_to_a_row_than_nothing(name: str) -> None:
    codec, block = example("codec", name), rows()
    lost = codec(block, LAYOUT, RngContext(1, "x", 3, range(4))) - block
    assert (lost.norm(dim=1) <= block.norm(dim=1)).all()
    assert (
        codec(torch.zeros_like(block), LAYOUT, RngContext(1, "x", 3, range(4)))
        .abs()
        .max()
        == 0
    )


@on_every_codec
def test_coded_rows_are_no_larger_than_plain_ones(name: str) -> None:
    size = coded_bytes(example("codec", name), LAYOUT)
    assert 0 < size <= 252 * 8
    assert (size == 252 * 8) == (name == "none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in names("codec") if name != "none"])
def test_what_travels_is_what_was_coded_in_as_many_bytes_as_are_counted(
    name: str, dtype: torch.dtype
) -> None:
    codec = example("codec", name)
    wire = traits_of(innermost(codec), CodecTraits).wire
    block, draw = rows().to(dtype), RngContext(1, "x", 3, range(4))
    layout = TensorLayout(LAYOUT.tensors, itemsize=dtype.itemsize)
    coded = codec(block, layout, draw)
    context = CodecContext(layout, draw, innermost(codec).settings)
    packed = wire.pack(block, coded, context)
    assert packed.dtype == torch.uint8
    assert packed.shape == (4, coded_bytes(codec, layout))
    assert torch.equal(wire.unpack(packed[1:], coded, context), coded[1:])


@on_every_codec
def test_workers_hear_what_was_coded_and_send_no_more(name: str) -> None:
    """Over real connections: the same bits, and on the wire what travels between the workers."""
    alone = talking(usable(name), steps=6, dtype="float32")
    walk(alone, 6)
    with connected([2, 3], ordered=True) as made:
        blocks = [Block(alone.setup, exchange, silent) for exchange in made]
        for block, part in zip(blocks, ((0, 2), (2, 5)), strict=True):
            whole = talking(usable(name), steps=6, dtype="float32").rows
            block.rows.copy_(whole[part[0] : part[1]])
        together(lambda worker: walk(worker, 6), blocks)
    assert torch.equal(torch.cat([each.rows for each in blocks]), alone.rows)
    wire = sum(each.stats.wire_bytes for each in blocks)
    crossing = 6 * 4  # rounds, links of the ring between the workers, both ways
    if name == "none":
        assert wire >= crossing * alone.setup.row_bytes
    else:
        assert wire == crossing * alone.setup.row_bytes


def test_sizes_in_bytes() -> None:
    asked = {
        "bf16": 504,
        "int8": 260,
        "top_k(0.1)": 26 * 12,
        "random_k(0.1)": 26 * 8,
        "sign": 40,
    }
    for text, size in asked.items():
        assert coded_bytes(build("codec", text), LAYOUT) == size
    assert coded_bytes(build("codec", "choco(low_rank(2))"), LAYOUT) == (2 * 32 + 12) * 8


@on_every_codec
def test_the_mean_is_kept_and_nodes_come_together(name: str) -> None:
    block = talking(usable(name), steps=600)
    mean, start = block.rows.mean(0), (block.rows - block.rows.mean(0)).norm()
    walk(block, 600)
    torch.testing.assert_close(block.rows.mean(0), mean, rtol=0, atol=1e-12)
    assert (block.rows - mean).norm() < 0.1 * start


@on_every_codec
def test_a_lie_is_coded_like_a_row_and_its_node_goes_on_with_its_own(name: str) -> None:
    """Node 1 of the ring lies: others end where they end if its row is the lie; it, as if not."""
    liar = talking(usable(name), attack="sign_flip(nodes=[1], scale=3)")
    believed, honest = talking(usable(name)), talking(usable(name))
    believed.rows[1] *= -3
    for block in (liar, believed, honest):
        walk(block, 1)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(
        liar.rows[others], believed.rows[others], rtol=0, atol=1e-6
    )
    torch.testing.assert_close(liar.rows[1], honest.rows[1], rtol=0, atol=1e-6)
    assert (liar.rows[[0, 2]] - honest.rows[[0, 2]]).abs().max() > 1e-2
    assert liar.stats.bytes == honest.stats.bytes


@on_every_codec
def test_a_dead_node_drags_everybody_to_its_constant_through_any_codec(name: str) -> None:
    block = talking(usable(name), steps=600, attack="constant(nodes=[1], value=3.0)")
    walk(block, 600)
    assert float((block.x[[0, 2, 3, 4], :40] - 3.0).abs().max()) < 0.5


def test_choco_converges_with_one_number_in_a_hundred() -> None:
    """Koloskova et al. (2019): linearly, however little is sent; averaging such rows does not."""
    block = talking(
        build("codec", "choco(codec=top_k(0.01), step=0.03)"),
        task="quadratic(dimension=100)", steps=1500,
    )  # fmt: skip
    block.x[:, 100:] = 0
    mean = block.x.mean(0)
    distances = [float((block.x - mean).norm())]
    for _ in range(3):
        walk(block, 500)
        distances.append(float((block.x - mean).norm()))
    assert block.setup.row_bytes == 12
    ratios = np.array(distances[1:]) / np.array(distances[:-1])
    assert (ratios < 0.1).all(), "by a constant factor in as many rounds"


@pytest.mark.parametrize("name", ["bf16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_gives_no_infinity(name: str, dtype: torch.dtype) -> None:
    """Not of the largest numbers either, whose rounding is up for some."""
    largest, codec = torch.finfo(dtype).max, build("codec", name)
    for value in (largest, 0.999 * largest, torch.finfo(dtype).tiny):
        block = torch.tensor([[value, 1.0, -value, 0.0]] * 4, dtype=dtype)
        layout = TensorLayout(((0, 4, (4,)),), itemsize=dtype.itemsize)
        coded = codec(block, layout, RngContext(1, "x", 3, range(4)))
        assert bool(torch.isfinite(coded).all())
        assert bool((coded[:, 0] == -coded[:, 2]).all())


def test_int8_is_unbiased() -> None:
    block = rows(1)
    codec = build("codec", "int8")
    coded = torch.stack(
        [codec(block, LAYOUT, RngContext(0, "x", r, [0]))[0] for r in range(500)]
    )
    step = float(block.abs().max()) / 127
    assert float((coded - block).abs().max()) <= step * 1.0001
    assert (
        float((coded.mean(0) - block[0]).abs().max()) < 5 * step / np.sqrt(12 * 500) * 2
    )


@on_every_codec
def test_bytes_are_what_the_preview_says_a_merge_included(name: str) -> None:
    communication = "then_merge(constant, at=60%)"
    block = talking(usable(name), steps=10, communication=communication)
    walk(block, 10)
    assert block.planner is not None
    assert block.stats.bytes == list(preview(block.planner))[-1].bytes(block.setup.size)
    assert block.setup.size.merge == 40 * 8


@on_every_codec
@pytest.mark.parametrize("attack", [None, "sign_flip(nodes=[3], start=20%, stop=80%)"])
def test_memory_is_resumed_and_two_workers_have_the_same_bits(
    name: str, attack: str | None
) -> None:
    block, other = (talking(usable(name), steps=12, attack=attack) for _ in range(2))
    blocks = [Block(block.setup, exchange, silent) for exchange in exchanges([2, 3])]
    walk(block, 6)
    saved = copy.deepcopy(checkpoint_of(block))
    for each in (other, *blocks):
        restore(each, saved)
    walk(block, 6)
    walk(other, 6)
    together(lambda worker: walk(worker, 6), blocks)
    assert torch.equal(other.rows, block.rows)
    assert torch.equal(torch.cat([each.rows for each in blocks]), block.rows)
