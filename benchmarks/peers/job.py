"""The job of every peer: digits on an MLP, a step of SGD and a gossip over a ring in each round.

Needs torch, numpy and scikit-learn alone, so that every peer's environment can import it.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

BATCH, RATE, SAMPLES, SEED = 32, 0.1, 128, 0

torch.set_num_threads(1)


def asked() -> tuple[int, int]:
    """Return the nodes and the steps of the command line."""
    return int(sys.argv[1]), int(sys.argv[2])


def model() -> nn.Sequential:
    """Build the model: 64-128-128-10, 26,122 numbers."""
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def first_model() -> nn.Sequential:
    """Return the model that every node begins with."""
    torch.manual_seed(SEED)
    return model()


class Digits:
    """Every node's own samples, and the test samples of all."""

    def __init__(self, nodes: int) -> None:
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, y = (x / 16).astype(np.float32), y.astype(np.int64)
        rng = np.random.default_rng(SEED)
        order = rng.permutation(len(x))
        train, test = order[360:], order[:360]
        # With replacement: there are not enough for hundreds of nodes.
        own = rng.choice(train, (nodes, SAMPLES))
        self.inputs = torch.from_numpy(x[own])  # [nodes, SAMPLES, 64]
        self.targets = torch.from_numpy(y[own])
        self.test = torch.from_numpy(x[test]), torch.from_numpy(y[test])

    def accuracy(self, mean: dict[str, torch.Tensor]) -> float:
        """Return the accuracy of the mean of all models, given as a state."""
        net = model()
        net.load_state_dict(mean)
        x, y = self.test
        with torch.no_grad():
            return (net(x).argmax(1) == y).double().mean().item()


def ring(nodes: int) -> np.ndarray:
    """Return the weights of a ring: a third for oneself and for each neighbour."""
    eye = np.eye(nodes)
    return (eye + np.roll(eye, 1, 0) + np.roll(eye, -1, 0)) / 3


def mean_state(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of some models."""
    return {
        key: torch.stack([state[key].detach().cpu() for state in states]).mean(0)
        for key in states[0]
    }


def tell(package: str, accuracy: float, computed: int | None = None) -> None:
    """Print what `run.py` reads: the last line; ``computed`` node-steps, if not all."""
    nodes, steps = asked()
    said = {"version": version(package), "accuracy": accuracy}
    print(
        json.dumps({**said, "computed": nodes * steps if computed is None else computed})
    )
