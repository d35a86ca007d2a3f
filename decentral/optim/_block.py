"""An optimizer at work on a block of rows, sharded by row."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from decentral.layout import ALIGNMENT, Layout
from decentral.registry import Bound


class BlockOptimizer:
    """Runs a torch optimizer in place over ``rows`` [n, P] with gradients in ``grads`` [n, P].

    Three ways to present the block, chosen once:

    - ``block``: the whole contiguous block is one parameter (element-wise, one group, no buffers);
    - ``rows``: one contiguous 1-D parameter per (row, group) (element-wise otherwise);
    - ``tensors``: one parameter per (row, named tensor), for optimizers that look at shapes.

    A strided view never becomes a parameter: fused kernels ignore strides. An optimizer of unknown
    origin (neither element-wise nor torch's own) may couple its parameters or keep counters of its
    own, so every row has an instance to itself.
    """

    def __init__(self, rule: Bound, layout: Layout, rows: Tensor, grads: Tensor) -> None:
        """Attach an optimizer to a block and to its gradients."""
        self.layout, self.nodes = layout, rows.shape[0]
        self.mode = self._choose(rule, layout, rows)
        self.params = [self._parameter(data, grad) for data, grad in self._pieces(rows, grads)]
        self.per_row = len(self.params) // (1 if self.mode == "block" else self.nodes)
        self.shared = self.mode != "tensors" or bool(rule.plugin.traits.get("isolated"))
        families = [self.params] if self.shared else list(map(self._params_of, range(self.nodes)))
        self.instances = [fused(rule(family)) for family in families]

    @staticmethod
    def _choose(rule: Bound, layout: Layout, rows: Tensor) -> str:
        if not is_elementwise(rule):
            return "tensors"
        whole = len(layout.groups) == 1 and layout.trainable == layout.width
        return "block" if whole and rows.is_contiguous() else "rows"

    def _pieces(self, rows: Tensor, grads: Tensor) -> list[tuple[Tensor, Tensor]]:
        if self.mode == "block":
            return [(rows, grads)]
        if self.mode == "rows":
            spans = self.layout.groups
            return [(r[a:b], g[a:b]) for r, g in zip(rows, grads, strict=True) for a, b in spans]
        entries = self.layout.parameters
        return [
            (r[e.start : e.stop].view(e.shape), g[e.start : e.stop].view(e.shape))
            for r, g in zip(rows, grads, strict=True)
            for e in entries
        ]

    @staticmethod
    def _parameter(data: Tensor, grad: Tensor) -> nn.Parameter:
        assert data.is_contiguous()
        assert grad.is_contiguous()
        parameter = nn.Parameter(data)
        parameter.grad = grad
        return parameter

    def step(self, lr: float) -> None:
        """Update the rows from their gradients at one learning rate."""
        for instance in self.instances:
            for group in instance.param_groups:
                group["lr"] = lr
            instance.step()

    def restart(self) -> None:
        """Forget all state, as if the next step were the first."""
        for instance in self.instances:
            instance.state.clear()

    # --- state, sharded by row --------------------------------------------------------------------

    def state_of(self, row: int) -> dict[str, Tensor]:
        """Return one row's state as ``{"<place>/<key>": tensor}``, its step counter included.

        Plain numbers are kept under ``<key>#``, those of a row's own instance at the place ``own``.
        """
        found: dict[str, Tensor] = {}
        for place, parameter in enumerate(self._params_of(row)):
            for key, value in self._state(row).get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{place}/{key}"] = self._share(value, parameter, row).detach().clone()
                elif isinstance(value, int | float):
                    found[f"{place}/{key}#"] = _number(value)
        if not self.shared:
            own = self.instances[row].param_groups[0].items()
            found |= {f"own/{k}#": _number(v) for k, v in own if isinstance(v, int | float)}
        return found

    def load_state(self, states: list[dict[str, Tensor]]) -> None:
        """Restore the states of all rows, as returned by ``state_of``."""
        for row, state in enumerate(states):
            for path, value in state.items():
                place, _, key = path.partition("/")
                if place == "own":
                    self.instances[row].param_groups[0][key.removesuffix("#")] = value.item()
                    continue
                parameter = self._params_of(row)[int(place)]
                self._put(self._state(row)[parameter], key, value, parameter, row)

    def _state(self, row: int) -> Any:
        return self.instances[0 if self.shared else row].state

    def _params_of(self, row: int) -> list[nn.Parameter]:
        if self.mode == "block":
            return self.params
        return self.params[row * self.per_row : (row + 1) * self.per_row]

    def _share(self, value: Tensor, parameter: nn.Parameter, row: int) -> Tensor:
        whole = self.mode == "block" and value.shape == parameter.shape
        return value[row] if whole else value

    def _put(
        self, state: dict[str, Any], key: str, value: Tensor, parameter: nn.Parameter, row: int
    ) -> None:
        if key.endswith("#"):
            state[key.removesuffix("#")] = value.item()
            return
        if self.mode != "block" or value.shape != parameter.shape[1:]:
            # Step counters stay on the CPU unless a kernel on the device reads them, as in torch.
            group = self.instances[0 if self.shared else row].param_groups[0]
            follows = key != "step" or group.get("fused") or group.get("capturable")
            state[key] = value.to(parameter.device if follows else value.device, copy=True)
            return
        if key not in state:
            state[key] = torch.zeros_like(parameter)
        state[key][row] = value

    def channels(self) -> list[Tensor]:
        """Return the row-shaped state as blocks [n, k] that an exchange can mix, in a fixed order.

        In ``block`` mode these are the state itself; otherwise copies, written back by ``absorb``.
        """
        if self.mode == "block":
            stop = self.layout.groups[0][1]
            return [
                value[:, :stop]
                for _, value in sorted(self._state(0).get(self.params[0], {}).items())
                if isinstance(value, Tensor) and value.shape == self.params[0].shape
            ]
        return [torch.stack([t.reshape(-1) for t in column]) for column in self._columns()]

    def absorb(self, channels: list[Tensor]) -> None:
        """Write mixed channels back into the state (needed only where they were copies)."""
        if self.mode == "block":
            return
        for column, channel in zip(self._columns(), channels, strict=True):
            for target, value in zip(column, channel, strict=True):
                target.copy_(value.view(target.shape))

    def silence(self, row: int) -> None:
        """Set the row-shaped state of one row to zero."""
        if self.mode == "block":
            for channel in self.channels():
                channel[row] = 0.0
        else:
            for column in self._columns():
                column[row].zero_()

    def _columns(self) -> list[list[Tensor]]:
        found: list[list[Tensor]] = []
        for place in range(self.per_row):
            owners = [self._params_of(row)[place] for row in range(self.nodes)]
            for key in sorted(self._state(0).get(owners[0], {})):
                column = [self._state(row)[owner][key] for row, owner in enumerate(owners)]
                if isinstance(column[0], Tensor) and column[0].shape == owners[0].shape:
                    found.append(column)
        return found


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Let torch update a parameter in one pass, where it has such a kernel and nobody objects.

    An optimizer that has made its state already has made it for the other kernel.
    """
    for group in optimizer.param_groups:
        free = "fused" in group and group["fused"] is None and group["foreach"] is None
        devices = {parameter.device.type for parameter in group["params"]}
        if free and devices <= {"cpu", "cuda"} and not optimizer.state:
            group["fused"] = True
    return optimizer


def is_elementwise(rule: Bound) -> bool:
    """Return whether a block may be one parameter: declared, and proved on two rows."""
    if not rule.plugin.traits.get("elementwise"):
        return False
    return all(torch.equal(*pair) for pair in _probe(rule))


def _probe(rule: Bound) -> list[tuple[Tensor, Tensor]]:
    shape = (2, ALIGNMENT)
    start = torch.linspace(-1.0, 2.0, prod(shape), dtype=torch.float64).view(shape)
    together, apart = start.clone(), start.clone()
    _three_steps(rule, [together])
    for row in apart:
        _three_steps(rule, [row])
    return list(zip(together, apart, strict=True))


def _three_steps(rule: Bound, tensors: list[Tensor]) -> None:
    params = [nn.Parameter(t) for t in tensors]
    optimizer = fused(rule(params))
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    for step in range(3):
        for parameter in params:
            parameter.grad = (parameter.detach() * (step + 1)).sin()
        optimizer.step()


def state_numbers(rule: Bound, layout: Layout) -> int:
    """Return how many numbers of one row's state are exchanged along with it, by a trial step."""
    row, grad = torch.ones(1, layout.width), torch.ones(1, layout.width)
    trial = BlockOptimizer(rule, layout, row, grad)
    trial.step(1e-3)
    return sum(channel.shape[1] for channel in trial.channels())
