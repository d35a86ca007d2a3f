"""An optimizer at work on a block of rows, sharded by row."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from decentral.layout import Entry, Layout
from decentral.optim.base import FREE, LrInfo, is_elementwise, make_optimizer
from decentral.optim.blocks import Blockwise
from decentral.optim.first_order import power_
from decentral.optim.states import pack, unpack
from decentral.private import step_quietly, step_together
from decentral.registry import ConfiguredPlugin
from decentral.topology.labels import RowIndex
from decentral.traits import OptimizerTraits, traits_of

#: The learning rate of a group, from the ratio of its rate to the base rate.
Rate = Callable[[float], float]

#: Ways to present a block where one parameter holds all rows.
_TOGETHER = ("block", "stacked")


class BlockOptimizer:
    """Runs a torch optimizer in place over ``rows`` [n, P] with gradients in
    ``grads`` [n, P].

    Four ways to present the block, chosen once:

    - ``block``: the whole contiguous block is one parameter (element-wise, one
      group, no buffers);
    - ``rows``: one contiguous 1-D parameter per (row, group) (element-wise
      otherwise);
    - ``stacked``: one parameter [n, *shape] per named tensor, with its name, for
      optimizers that work on all rows at once but never mix them (the group setting
      ``leading`` is then 1);
    - ``tensors``: one parameter per (row, named tensor), for other optimizers that
      look at shapes.

    Fused kernels ignore strides, so only ``stacked`` has strided parameters, and no
    fused kernel. An optimizer of unknown origin (neither element-wise nor stacked
    nor torch's own) may couple its parameters or keep counters of its own, so every
    row has an instance to itself. Gradients are raised to ``grad_power`` first, all
    at once; ``blockwise`` gives groups a rate of their own.
    """

    def __init__(
        self,
        rule: ConfiguredPlugin,
        layout: Layout,
        rows: Tensor,
        grads: Tensor,
        course: LrInfo = FREE,
        apart: bool = False,
    ) -> None:
        """Attach an optimizer to a block and to its gradients.

        Args:
            rule: The optimizer.
            layout: Where each parameter stands in a row.
            rows: The block, [n, P].
            grads: Its gradients, [n, P].
            course: The course of the learning rate.
            apart: Whether rows are updated one at a time, by `step_rows`: each then has
                an instance, and with it a count of steps, to itself.
        """
        self.layout, self.nodes, self.grads = layout, rows.shape[0], grads
        self.apart = apart
        self.power = float(rule.common.get("grad_power", 1.0))
        traits = traits_of(rule, OptimizerTraits)
        self.mixes = traits.mixes
        self.mode = self._choose(rule, layout, rows)
        self.together = self.mode in _TOGETHER and not apart
        pieces = self._pieces(rows, grads)
        self.params = [self._parameter(data, grad) for _, data, grad in pieces]
        self.entries = [entry for entry, _, _ in pieces]
        self.per_row = len(self.params) // (1 if self.together else self.nodes)
        self.shared = not apart and (self.mode != "tensors" or traits.isolated)
        self.blockwise: Blockwise | None = rule.common.get("blockwise")
        owners = [list(range(len(self.params)))]
        if not self.shared:
            owners = [self._places_of(row) for row in range(self.nodes)]
        self.named = traits.named
        self.instances = [
            make_optimizer(
                rule, self._present(places), [self.params[place] for place in places]
            )
            for places in owners
        ]
        self.groups = [group for one in self.instances for group in one.param_groups]
        #: Instances whose parameters are elsewhere while they train than where they
        #: are evaluated.
        self.moded: list[Any] = [one for one in self.instances if _has_modes(one)]
        self.set_mode(training=True)
        #: Whether a group wants to know how far the run is.
        self.follows_progress = any("progress" in group for group in self.groups)
        for group in self.groups:
            if "course" in group:
                group["course"] = asdict(course)
            if self.named and self.blockwise:
                group["ratio"] = self.blockwise.ratio(group["name"])

    @staticmethod
    def _choose(rule: ConfiguredPlugin, layout: Layout, rows: Tensor) -> str:
        if traits_of(rule, OptimizerTraits).stacked:
            return "stacked"
        if not is_elementwise(rule):
            return "tensors"
        # Buffers or padding within the parameter would be updated, and decay, with
        # it.
        whole = len(layout.groups) == 1 and layout.trainable == layout.width
        return "block" if whole and rows.is_contiguous() else "rows"

    def _pieces(self, rows: Tensor, grads: Tensor) -> list[tuple[Entry, Tensor, Tensor]]:
        """Return the data and the gradient of every parameter, with its (first)
        named tensor.
        """
        entries = self.layout.parameters
        if self.mode in _TOGETHER:
            # What holds for a block of rows holds for a block of one.
            size = 1 if self.apart else self.nodes
            pairs = zip(rows.split(size), grads.split(size), strict=True)
            return [piece for pair in pairs for piece in self._pieces_of_block(*pair)]
        # Row by row in the order of columns, by which the state of a row is found again.
        if self.mode == "rows":
            first = {entry.start: entry for entry in entries}
            spans = [(first[a], a, b) for a, b in self.layout.groups]
            pairs = list(zip(rows, grads, strict=True))
            return [(e, r[a:b], g[a:b]) for r, g in pairs for e, a, b in spans]
        values, slopes = self.layout.views(rows), self.layout.views(grads)
        return [
            (e, values[e.name][row], slopes[e.name][row])
            for row in range(self.nodes)
            for e in entries
        ]

    def _pieces_of_block(
        self, rows: Tensor, grads: Tensor
    ) -> list[tuple[Entry, Tensor, Tensor]]:
        """Return those of parameters that hold all rows of a block."""
        entries = self.layout.parameters
        if self.mode == "block":
            return [(entries[0], rows, grads)]
        values, slopes = self.layout.views(rows), self.layout.views(grads)
        return [(e, values[e.name], slopes[e.name]) for e in entries]

    def _parameter(self, data: Tensor, grad: Tensor) -> nn.Parameter:
        assert self.mode == "stacked" or (data.is_contiguous() and grad.is_contiguous())
        parameter = nn.Parameter(data)
        # Once and for all: gradients are written into this memory, never replaced.
        parameter.grad = grad
        return parameter

    def _present(self, places: list[int]) -> Any:
        """Return parameters as torch takes them: with names, in groups by ratio,
        where needed.
        """
        named = [(self.entries[place].name, self.params[place]) for place in places]
        groups: dict[float, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in named:
            groups.setdefault(self._ratio(name), []).append((name, parameter))
        if self.mode == "stacked":
            return [
                {"params": group, "leading": 1, "ratio": r} for r, group in groups.items()
            ]
        if self.named:
            return named
        if self.blockwise is None:
            return [parameter for _, parameter in named]
        return [
            {"params": [p for _, p in group], "ratio": r} for r, group in groups.items()
        ]

    def _ratio(self, name: str) -> float:
        return self.blockwise.ratio(name) if self.blockwise else 1.0

    def step(self, lr: float | Rate, progress: float = 0.0) -> None:
        """Update the rows from their gradients, after the share ``progress`` of the run.

        ``lr`` is the learning rate, or that of each group as a function of its ratio.
        """
        if self.power != 1.0:
            # In one pass for the whole block, before any optimizer sees its part.
            power_(self.layout.trainable_view(self.grads), self.power)
        _tell(self.groups, lr, progress)
        for instance in self.instances:
            step_quietly(instance)

    def step_rows(
        self, rows: Sequence[int], lr: float | Rate, progress: float = 0.0
    ) -> None:
        """Do the same for some rows, whose instances stand ``apart``.

        Args:
            rows: The rows.
            lr: Their learning rate.
            progress: The share of the run that their nodes have done.
        """
        if self.power != 1.0:
            for row in rows:
                power_(self.layout.trainable_view(self.grads[row : row + 1]), self.power)
        instances = [self.instances[row] for row in rows]
        for instance in instances:
            _tell(instance.param_groups, lr, progress)
        step_together(instances)

    def set_mode(self, training: bool) -> None:
        """Tell optimizers that have modes, such as schedule-free ones, what comes
        next.
        """
        for instance in self.moded:
            if training:
                instance.train()
            else:
                instance.eval()

    @contextmanager
    def evaluating(self) -> Generator[None]:
        """Let the rows be, for a while, what is to be evaluated, merged and kept."""
        self.set_mode(training=False)
        try:
            yield
        finally:
            self.set_mode(training=True)

    def restart(self) -> None:
        """Forget all state, as if the next step were the first."""
        for instance in self.instances:
            instance.state.clear()

    # --- state, sharded by row ----------------------------------------------------

    def states(self) -> list[dict[str, Tensor]]:
        """Return every row's state as ``{"<place>/<key>": tensor}``, its step counter
        included.

        Plain numbers are kept under ``<key>#``, and all that a row's own instance
        remembers under ``own/``, see ``optim.states``.
        """
        if not self.shared:
            return [
                {f"own/{k}": v for k, v in pack(one).items()} for one in self.instances
            ]
        found: list[dict[str, Tensor]] = [{} for _ in range(self.nodes)]
        for index, parameter in enumerate(self.params):
            row, place = (0, index) if self.together else divmod(index, self.per_row)
            owners = found if self.together else [found[row]]
            for key, value in self._state(row).get(parameter, {}).items():
                if not isinstance(value, Tensor | int | float):
                    continue
                # A copy, which does not change with the next step: one for all rows,
                # as copies of ten thousand rows would take longer than a step.
                tensor = isinstance(value, Tensor)
                whole = value.detach().clone() if tensor else _number(value)
                divided = self.together and whole.dim()
                parts = whole.unbind() if divided else [whole] * len(owners)
                name = f"{place}/{key}" if tensor else f"{place}/{key}#"
                for own, part in zip(owners, parts, strict=True):
                    own[name] = part
        return found

    def load_state(self, states: list[dict[str, Tensor]]) -> None:
        """Restore the states of all rows, as returned by ``states``."""
        for row, state in enumerate(states):
            if not self.shared:
                own = {path.removeprefix("own/"): value for path, value in state.items()}
                unpack(self.instances[row], own)
                continue
            for path, value in state.items():
                place, _, key = path.partition("/")
                parameter = self._params_of(row)[int(place)]
                self._put(self._state(row)[parameter], key, value, parameter, row)

    def _state(self, row: int) -> Any:
        return self.instances[0 if self.shared else row].state

    def _places_of(self, row: int) -> list[int]:
        first = 0 if self.together else row * self.per_row
        return list(range(first, first + self.per_row))

    def _params_of(self, row: int) -> list[nn.Parameter]:
        return [self.params[place] for place in self._places_of(row)]

    def _put(
        self,
        state: dict[str, Any],
        key: str,
        value: Tensor,
        parameter: nn.Parameter,
        row: int,
    ) -> None:
        if key.endswith("#"):
            state[key.removesuffix("#")] = value.item()
            return
        if not self.together or not value.dim():
            # Step counters stay on the CPU unless a kernel on the device reads
            # them, as in torch.
            group = self.instances[0 if self.shared else row].param_groups[0]
            follows = key != "step" or group.get("fused") or group.get("capturable")
            state[key] = value.to(
                parameter.device if follows else value.device, copy=True
            )
            return
        if key not in state:
            # Made of zeros for all rows: the optimizer has taken no step yet.
            shape = (self.nodes, *value.shape)
            state[key] = torch.zeros(shape, dtype=value.dtype, device=parameter.device)
        state[key][row] = value

    def channels(self) -> list[Tensor]:
        """Return the row-shaped state as blocks [n, k] that an exchange can mix, in
        a fixed order.

        Where one parameter holds all rows these are the state itself; otherwise
        copies, written back by ``absorb``.
        """
        if self.together:
            stop = self.layout.groups[0][1] if self.mode == "block" else None
            return [
                value.view(self.nodes, -1)[:, :stop]
                for parameter in self.params
                for key, value in sorted(self._state(0).get(parameter, {}).items())
                if self._travels(key, value, parameter)
            ]
        return [
            torch.stack([t.reshape(-1) for t in column]) for column in self._columns()
        ]

    def _travels(self, key: str, value: Any, parameter: nn.Parameter) -> bool:
        """Whether a state means the same for every node: shaped like the rows, and
        declared.
        """
        declared = self.mixes is None or key in self.mixes
        return declared and isinstance(value, Tensor) and value.shape == parameter.shape

    def absorb(self, channels: list[Tensor]) -> None:
        """Write mixed channels back into the state, where they were copies."""
        if self.together:
            return
        for column, channel in zip(self._columns(), channels, strict=True):
            # Into the tensors that are there: optimizers may hold references to
            # them.
            for target, value in zip(column, channel, strict=True):
                target.copy_(value.view(target.shape))

    def zero_state(self, row: RowIndex) -> None:
        """Set the state of one row to zero, its counters aside."""
        if self.together:
            for parameter in self.params:
                for value in self._state(0).get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.dim():
                        value[row] = 0.0
        else:
            for column in self._columns():
                column[row].zero_()

    def _columns(self) -> list[list[Tensor]]:
        found: list[list[Tensor]] = []
        for place in range(self.per_row):
            owners = [self._params_of(row)[place] for row in range(self.nodes)]
            for key in sorted(self._state(0).get(owners[0], {})):
                column = [
                    self._state(row)[owner][key] for row, owner in enumerate(owners)
                ]
                if self._travels(key, column[0], owners[0]):
                    found.append(column)
        return found


def _tell(groups: list[dict[str, Any]], lr: float | Rate, progress: float) -> None:
    """Tell groups their rate, and how far the run is if they want to know."""
    for group in groups:
        ratio = group.get("ratio", 1.0)
        group["lr"] = lr(ratio) if callable(lr) else lr * ratio
        if "progress" in group:
            group["progress"] = progress


def _has_modes(optimizer: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def state_numbers(rule: ConfiguredPlugin, layout: Layout) -> int:
    """Return how many numbers of a row's state are exchanged, by a trial step."""
    # Many optimizers make their state only when they first step.
    row, grad = torch.ones(1, layout.width), torch.ones(1, layout.width)
    trial = BlockOptimizer(rule, layout, row, grad)
    trial.step(1e-3)
    return sum(channel.shape[1] for channel in trial.channels())
