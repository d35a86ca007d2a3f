"""All rows together, layer by layer: sequential models of known layers, differentiated by hand.

Activations are [n, B, ...]. Linear layers are batched matrix products whose gradients go straight
into the gradient block. Every other layer runs natively on [B, n C, ...], rows folded into
channels, where a convolution has n groups and a normalisation n times the channels; such a fold of
what another one made is free, since it stays in that order in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decentral.gradients.losses import differentiated
from decentral.layout import Layout

Views = dict[str, Tensor]
#: Runs backward through one layer: (dy, gradients to fill, whether dx is wanted) -> dx.
Pull = Callable[[Tensor, Views, bool], Tensor | None]
#: One native layer: (x [n, B, ...], parameters and buffers [n, ...]) -> y [n, B, ...].
Op = Callable[[Tensor, Views], Tensor]

#: Rows computed at a time: more do not fit a core's cache, fewer do not fill it.
_ROWS = 16


class Dense:
    """A linear layer of all rows, y = x W^T + b, with the ReLU that follows it."""

    def __init__(self, name: str, module: nn.Linear, rectify: bool) -> None:
        """Wrap the layer called ``name``."""
        self.weight, self.rectify = f"{name}.weight", rectify
        self.bias = None if module.bias is None else f"{name}.bias"  # pyright: ignore
        self.names = [self.weight, *([self.bias] if self.bias else [])]

    def __call__(self, values: Views, x: Tensor, tape: list[Pull] | None) -> Tensor:
        """Return y [n, B, ..., outputs] for x [n, B, ..., inputs]."""
        weight, inputs = values[self.weight], x.flatten(1, -2)
        if self.bias:
            bias = values[self.bias].unsqueeze(1)
            y = torch.baddbmm(bias, inputs, weight.transpose(1, 2))
        else:
            y = torch.bmm(inputs, weight.transpose(1, 2))
        if self.rectify:
            y.relu_()
        if tape is not None:
            tape.append(lambda dy, grads, wanted: self._pull(weight, x, y, dy, grads, wanted))
        return y.view(*x.shape[:-1], -1)

    def _pull(
        self, weight: Tensor, x: Tensor, y: Tensor, dy: Tensor, grads: Views, wanted: bool
    ) -> Tensor | None:
        dy = dy.reshape(y.shape)
        if self.rectify:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)
        # A product into a strided view would run row by row, so it is made apart and copied.
        grads[self.weight].copy_(torch.bmm(dy.transpose(1, 2), x.flatten(1, -2)))
        if self.bias:
            torch.sum(dy, 1, out=grads[self.bias])
        return torch.bmm(dy, weight).view(x.shape) if wanted else None


class Native:
    """A run of layers that torch computes for all rows at once, differentiated by autograd."""

    def __init__(self, ops: list[Op], names: list[str]) -> None:
        """Compose ``ops``, whose parameters are called ``names``."""
        self.ops, self.names = ops, names

    def __call__(self, values: Views, x: Tensor, tape: list[Pull] | None) -> Tensor:
        """Return the output [n, B, ...] of the last layer."""
        if tape is None:
            return self._run(values, x)
        leaves = [values[name].detach().contiguous().requires_grad_() for name in self.names]
        start = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self._run({**values, **dict(zip(self.names, leaves, strict=True))}, start)

        def pull(dy: Tensor, grads: Views, wanted: bool) -> Tensor | None:
            asked = [*leaves, start] if wanted else leaves
            found = torch.autograd.grad(y, asked, dy)
            for name, grad in zip(self.names, found, strict=False):
                grads[name].copy_(grad)
            return found[-1] if wanted else None

        tape.append(pull)
        return y.detach()

    def _run(self, values: Views, x: Tensor) -> Tensor:
        for op in self.ops:
            x = op(x, values)
        return x


Kernel = Dense | Native


class LayerGradient:
    """Differentiates all rows of a block at once, layer by layer."""

    kind = "vmap"

    def __init__(self, kernels: list[Kernel], layout: Layout, loss: Any) -> None:
        """Run ``kernels`` (from ``kernels_of``) under a loss that averages over a batch."""
        self.kernels, self.layout = kernels, layout
        self.loss = differentiated(loss)
        self.first = next(i for i, kernel in enumerate(kernels) if kernel.names)

    def __call__(self, rows: Tensor, integers: Views, batch: Any, out: Tensor) -> Tensor:
        """Write the gradients of all rows into ``out``; return losses [n]."""
        losses: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, rows.shape[0], _ROWS):
                some = slice(start, start + _ROWS)
                whole = {k: v[some] for k, v in integers.items()}
                values = {**bound(self.layout, rows[some]), **whole}
                grads = self.layout.views(out[some])
                losses.append(self._part(values, batch.inputs[some], batch.targets[some], grads))
        return torch.cat(losses)

    def _part(self, values: Views, inputs: Tensor, targets: Tensor, grads: Views) -> Tensor:
        tape: list[Pull] = []
        x = inputs
        for kernel in self.kernels:
            x = kernel(values, x, tape)
        losses, dy = self.loss(x, targets)
        for place in range(len(tape) - 1, self.first - 1, -1):
            dy = tape[place](dy, grads, place > self.first)
        return losses


def layer_forward(
    kernels: list[Kernel], layout: Layout
) -> Callable[[Tensor, Views, Tensor], Tensor]:
    """Return ``forward(rows, integers, inputs) -> outputs``: every row on the same inputs."""

    def forward(rows: Tensor, integers: Views, inputs: Tensor) -> Tensor:
        values = bound(layout, rows) | integers
        x = inputs.expand(rows.shape[0], *inputs.shape)
        for kernel in kernels:
            x = kernel(values, x, None)
        return x

    return forward


def bound(layout: Layout, rows: Tensor) -> Views:
    """Return views [n, ...] of all parameters and float buffers of a block."""
    return layout.views(rows, layout.parameters + layout.buffers)


# --- which layers -------------------------------------------------------------------------------


def kernels_of(model: nn.Module, layout: Layout) -> list[Kernel] | None:
    """Return the kernels of a sequential model, or None if a part of it is not known here.

    Unknown are also frozen and tied parameters, and modules with hooks.
    """
    kernels: list[Kernel] = []
    leaves = list(_leaves(model, ""))
    names = [f"{n}.{p}" if n else p for n, m in leaves for p, _ in m.named_parameters()]
    if sorted(names) != sorted(entry.name for entry in layout.parameters):
        return None
    for name, module in leaves:
        last = kernels[-1] if kernels else None
        if type(module) is nn.ReLU and isinstance(last, Dense) and not last.rectify:
            last.rectify = True
        elif type(module) is nn.Linear:
            kernels.append(Dense(name, module, rectify=False))
        elif (op := _op(name, module)) is None:
            return None
        elif isinstance(last, Native):
            last.ops.append(op)
            last.names += _named(name, module)
        else:
            kernels.append(Native([op], _named(name, module)))
    return kernels


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential or _hooked(module):
        yield name, module
        return
    for key, child in module.named_children():
        yield from _leaves(child, f"{name}.{key}" if name else key)


def _hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _named(name: str, module: nn.Module) -> list[str]:
    return [f"{name}.{key}" for key, _ in module.named_parameters()]


def _op(name: str, module: nn.Module) -> Op | None:
    maker = _OPS.get(type(module))
    return None if maker is None or _hooked(module) else maker(name, module)


def _fold(x: Tensor) -> Tensor:
    """[n, B, C, ...] -> [B, n C, ...], without a copy where memory is in that order."""
    return x.transpose(0, 1).flatten(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    """Put images into the order of memory in which grouped convolutions and poolings are fast."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _unfold(y: Tensor, n: int) -> Tensor:
    return y.unflatten(1, (n, -1)).transpose(0, 1)


def _flat(values: Views, name: str) -> Tensor | None:
    return values[name].flatten(0, 1) if name in values else None


def _elementwise(name: str, module: nn.Module) -> Op:
    return lambda x, values: module(x)


def _pool(name: str, module: nn.Module) -> Op:
    return lambda x, values: _unfold(module(_fold(x)), x.shape[0])


def _flatten(name: str, module: Any) -> Op | None:
    first, last = module.start_dim, module.end_dim
    if first < 1:
        return None
    return lambda x, values: x.flatten(first + 1, last + 1 if last >= 0 else last)


def _conv(name: str, module: Any) -> Op | None:
    convolve: Any = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(module)]
    if module.padding_mode != "zeros":
        return None

    def op(x: Tensor, values: Views) -> Tensor:
        weight, bias = _flat(values, f"{name}.weight"), _flat(values, f"{name}.bias")
        n = x.shape[0]
        how = module.stride, module.padding, module.dilation, n * module.groups
        return _unfold(convolve(_channels_last(_fold(x)), weight, bias, *how), n)

    return op


def _group_norm(name: str, module: Any) -> Op:
    def op(x: Tensor, values: Views) -> Tensor:
        affine = _flat(values, f"{name}.weight"), _flat(values, f"{name}.bias")
        groups = x.shape[0] * module.num_groups
        return _unfold(F.group_norm(_fold(x), groups, *affine, module.eps), x.shape[0])

    return op


def _batch_norm(name: str, module: Any) -> Op | None:
    if module.momentum is None or not module.track_running_stats:
        return None
    stats = [f"{name}.running_mean", f"{name}.running_var"]

    def op(x: Tensor, values: Views) -> Tensor:
        affine = _flat(values, f"{name}.weight"), _flat(values, f"{name}.bias")
        running = [values[key].flatten() for key in stats]
        how = module.training, module.momentum, module.eps
        y = F.batch_norm(_fold(x), *running, *affine, *how)
        if module.training:
            for key, value in zip(stats, running, strict=True):
                values[key].copy_(value.view_as(values[key]))
            values[f"{name}.num_batches_tracked"] += 1
        return _unfold(y, x.shape[0])

    return op


_OPS: dict[type[nn.Module], Callable[[str, Any], Op | None]] = {
    nn.Flatten: _flatten,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d), _pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _pool),
    **dict.fromkeys((nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU), _elementwise),
    **dict.fromkeys((nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus), _elementwise),
}
