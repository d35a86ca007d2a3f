"""Your own module, data and loss: ``python configs/own_model.py [steps]``.

Eight nodes fit a noisy sine wave. Node i sees only its own eighth of the wave and knows nothing of
the rest. Little communication over a ring, much of it late, and one merge give a model of the
whole wave.

Seen at 600 steps: mean loss of the local models 0.787, of the merged model 0.270.
"""

import sys

import torch
from torch import nn

import decentral


def wave(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places in [-1, 1], ascending, and the noisy wave there."""
    draw = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, samples).unsqueeze(1)
    return x, torch.sin(4 * x) + 0.1 * torch.randn(x.shape, generator=draw)


def network() -> nn.Module:
    """Return the model that every node trains."""
    return nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))


def main(steps: int = 600) -> decentral.Run:
    """Train, and say what the local models and their merge reach."""
    x, y = wave(800)
    task = decentral.Task(
        model=network,
        loss=nn.functional.mse_loss,
        train=(x, y),
        test=wave(801),
        owners=torch.arange(800) // 100,  # node i gets the i-th eighth
    )
    run = decentral.launch(
        task=task,
        nodes=8,
        steps=steps,
        topology="ring",
        communication="late(start=50%)",
        optimizer="adamw",
        learning_rate=0.01,
    )
    before, after = run.summary["before_merge"], run.summary["final"]
    print(f"local models before the merge: loss {before['loss/local_mean']:.4f}")
    print(f"merged model:                  loss {after['loss/merged']:.4f}")
    return run


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
