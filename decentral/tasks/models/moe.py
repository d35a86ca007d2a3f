"""Small mixtures of experts."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decentral.registry import Count, NonNegative, plugin


@plugin(
    "model",
    inputs="numbers",
    surrogate="gates learn through p / stop-gradient(p) and a penalty",
)
def moe(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    layers: Count = 1,
    experts: Count = 4,
    width: Count = 10,
    gate: Literal["linear", "intervals"] = "linear",
    balance: NonNegative = 0.01,
) -> nn.Module:
    """Mix experts in layers: h <- p_i / sg(p_i) expert_i([h, x]), i = argmax p, p =
    softmax(gate).

    An expert has one hidden layer of ``width`` ReLUs; only one per layer is active
    (its output is scaled by 1, its gate learns through p / stop-gradient(p)).
    ``gate``: ``linear`` in [h, x], or ``intervals``, which knows the pieces of task
    ``pieces`` and is not trained: layer l sees coordinate l, a single layer all of
    them. ``balance`` weighs the load-balance penalty E sum_i f_i P_i, which shapes
    gradients but not the loss that is shown (Fedus et al., "Switch Transformers",
    2022).

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        layers: Number of layers.
        experts: Experts of a layer.
        width: Neurons of an expert.
        gate: How an expert is chosen: ``linear`` or ``intervals``.
        balance: Weight of the load-balance penalty.
    """
    size = prod(input_shape)
    made: list[Layer] = []
    for level in range(layers):
        known = Intervals(level if layers > 1 else None, size, experts)
        seen = size if level == 0 else size + outputs
        fixed = known if gate == "intervals" else None
        made.append(Layer(seen, outputs, experts, width, balance, fixed))
    return Mixture(made)


class Mixture(nn.Module):
    """Layers of experts; every layer sees the input beside the output of the one
    before.
    """

    def __init__(self, layers: list[Layer]) -> None:
        """Stack the layers."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs [B, outputs] of inputs [B, ...]."""
        x = inputs.flatten(1)
        h = self.layers[0](x, x)
        for layer in list(self.layers)[1:]:
            h = layer(torch.cat([h, x], 1), x)
        return h


class Layer(nn.Module):
    """Experts with one hidden layer each, of which a gate chooses one per sample."""

    def __init__(
        self, inputs: int, outputs: int, experts: int, width: int, balance: float,
        gate: nn.Module | None,
    ) -> None:  # fmt: skip
        """Draw the experts; without a fixed gate, a linear one learns."""
        super().__init__()
        self.experts, self.balance, self.fixed = experts, balance, gate
        self.gate = nn.Linear(inputs, experts) if gate is None else None
        self.up = _uniform(inputs, experts, inputs, width)
        self.up_bias = _uniform(inputs, experts, width)
        self.down = _uniform(width, experts, width, outputs)
        self.down_bias = _uniform(width, experts, outputs)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Return the chosen experts' outputs [B, outputs]."""
        # All experts compute: a choice by index would not run under vmap.
        hidden = torch.einsum("bi,eiw->bew", h, self.up).add(self.up_bias).relu()
        each = torch.einsum("bew,ewo->beo", hidden, self.down) + self.down_bias
        if self.fixed is not None:
            return (each * self.fixed(x).unsqueeze(-1)).sum(1)
        assert self.gate is not None
        p = self.gate(h).softmax(-1)
        chosen = _one_of(self.experts, p.argmax(-1), p.dtype)
        # p / p is 1, so that the output is that of one expert; its gradient is what
        # teaches the gate, which a plain choice would not.
        output = (each * (chosen * p / p.detach()).unsqueeze(-1)).sum(1)
        if not self.balance:
            return output
        # A choice has no gradient: the penalty moves gates through p alone.
        penalty = self.balance * self.experts * (chosen.mean(0) * p.mean(0)).sum()
        return _Attach.apply(output, penalty)


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """Draw a parameter as ``nn.Linear`` does."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class Intervals(nn.Module):
    """A gate that knows the pieces: one coordinate's interval, or all of them
    shared out evenly.
    """

    def __init__(self, coordinate: int | None, coordinates: int, experts: int) -> None:
        """Look at one coordinate, or at all for None."""
        super().__init__()
        self.coordinate, self.coordinates, self.experts = coordinate, coordinates, experts

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen expert as one of ``experts`` ones, [B, E]."""
        from decentral.tasks.synthetic import SPACING

        number = 3 if self.coordinate is None else self.experts
        index = (x / SPACING + (number - 1) / 2).round().clamp(0, number - 1).long()
        if self.coordinate is None:
            # Pieces are counted in base 3, the first coordinate leading, then
            # shared out evenly.
            place = sum(
                index[:, k] * number ** (self.coordinates - 1 - k)
                for k in range(self.coordinates)
            )
            chosen = torch.as_tensor(place) * self.experts // number**self.coordinates
        else:
            chosen = index[:, self.coordinate]
        return _one_of(self.experts, chosen, x.dtype)


def _one_of(experts: int, chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a one at the chosen expert, zeros elsewhere, [B, E]; unlike one_hot,
    under vmap.
    """
    return (chosen.unsqueeze(-1) == torch.arange(experts, device=chosen.device)).to(dtype)


class _Attach(torch.autograd.Function):
    """Add a penalty's gradient without its value: y = output, dL/dpenalty = 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, penalty: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        return

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        return grad, torch.ones((), dtype=grad.dtype, device=grad.device)
