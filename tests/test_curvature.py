"""Curvature against Hessians that are known: a quadratic, and a tiny network's, written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import in_turns, tiny_block
from torch.autograd.functional import hessian
from torch.func import functional_call

from decentral.loop.measure import Evaluator
from decentral.metrics.curvature import curvature

TIGHT = {"samples": 64, "iterations": 150, "probes": 400}


def measured(**settings: Any) -> tuple[dict[str, float], Any]:
    block = tiny_block(
        dtype="float64", init="independent", nodes=2, topology="ring", **settings
    )
    snapshot = Evaluator(block).snapshot(complete=True)
    return curvature(snapshot, **TIGHT), block


def test_of_a_quadratic_it_is_its_largest_curvature_and_their_sum() -> None:
    found, block = measured(task="quadratic(dimension=5, samples=2)", batch=1)
    curvatures = block.setup.task.splits[0].targets[:, 0].mean(0)
    for model in ("local_mean", "merged"):
        top, trace = found[f"curvature/top_{model}"], found[f"curvature/trace_{model}"]
        assert top == pytest.approx(curvatures.max().item(), rel=1e-6)
        assert trace == pytest.approx(curvatures.sum().item(), rel=1e-9), (
            "exact for a diagonal"
        )


@pytest.mark.parametrize(
    ("norm", "replicas"), in_turns([["none"], ["batch"]], ["vmap", "loop"])
)
def test_of_a_tiny_network_it_is_that_of_the_whole_matrix(
    norm: str, replicas: str
) -> None:
    model = f"cnn(channels=[1], norm={norm})" if norm == "batch" else "mlp(hidden=[3])"
    task = {"task": "digits"} if norm == "batch" else {}
    found, block = measured(model=model, replicas=replicas, **task)
    layout, samples = block.setup.layout, block.setup.train.subset(torch.arange(64))
    network = block.setup.builder().double().eval()
    values = []
    for row in block.rows:
        layout.unpack(row, network)
        buffers = dict(network.named_buffers())

        def loss(flat: torch.Tensor, buffers: Any = buffers) -> torch.Tensor:
            named = {
                e.name: flat[e.start : e.stop].view(e.shape) for e in layout.parameters
            }
            outputs = functional_call(network, {**named, **buffers}, (samples.inputs,))
            return block.setup.task.loss(outputs, samples.targets)

        matrix: Any = hessian(loss, row[: layout.trainable].clone())
        spectrum = torch.linalg.eigvalsh(matrix)
        values.append((spectrum[spectrum.abs().argmax()].item(), spectrum.sum().item()))
    top, trace = torch.tensor(values).mean(0).tolist()
    assert found["curvature/top_local_mean"] == pytest.approx(top, rel=1e-3)
    assert found["curvature/trace_local_mean"] == pytest.approx(trace, rel=0.05)
