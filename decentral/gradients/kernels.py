"""How one layer is computed, and differentiated, for all rows together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decentral.layout import Layout

Views = dict[str, Tensor]
#: Runs backward through one kernel: (dy, gradients to fill) -> dx, or None where
#: nobody wants it.
Pull = Callable[[Tensor, Views], Tensor | None]
#: One native layer: (x [n, B, ...], parameters and buffers [n, ...]) -> y [n, B,
#: ...].
Op = Callable[[Tensor, Views], Tensor]
#: From a module and its name to what computes it, None where that cannot be.
Maker = Callable[[str, Any], Op | None]


class Dense:
    """A linear layer of all rows, y = x W^T + b, with the ReLU that follows it.

    ``deep`` says that something before it learns, so that dx is wanted.
    """

    def __init__(self, names: list[str], deep: bool) -> None:
        """Take the names of the weight and, if there is one, of the bias."""
        self.names, self.deep, self.rectify = names, deep, False
        self.weight, self.bias = names if len(names) == 2 else (names[0], None)

    def __call__(self, values: Views, x: Tensor, tape: list[Pull] | None) -> Tensor:
        """Return y [n, B, ..., outputs] for x [n, B, ..., inputs]."""
        weight = values[self.weight]
        inputs, across = x.flatten(1, -2), weight.transpose(1, 2)
        if self.bias is None:
            y = torch.bmm(inputs, across)
        else:
            y = torch.baddbmm(values[self.bias].unsqueeze(1), inputs, across)
        # In place: the backward pass needs only whether y is above 0.
        if self.rectify:
            y.relu_()
        if tape is not None:
            tape.append(partial(self._pull, weight, x, y))
        return y.view(*x.shape[:-1], -1)

    def _pull(
        self, weight: Tensor, x: Tensor, y: Tensor, dy: Tensor, grads: Views
    ) -> Tensor | None:
        dy = dy.reshape(y.shape)
        if self.rectify:
            dy = torch.ops.aten.threshold_backward(dy, y, 0)
        # A product into a strided view would run row by row, so it is made apart
        # and copied.
        grads[self.weight].copy_(torch.bmm(dy.transpose(1, 2), x.flatten(1, -2)))
        if self.bias is not None:
            torch.sum(dy, 1, out=grads[self.bias])
        return torch.bmm(dy, weight).view(x.shape) if self.deep else None


class Native:
    """A run of layers that torch computes for all rows at once, differentiated by
    autograd.
    """

    def __init__(self, deep: bool) -> None:
        """Begin with no layer; ``deep`` says that something before it learns."""
        self.ops: list[Op] = []
        self.names: list[str] = []
        #: Further names of parameters that a module uses twice, and the one they have.
        self.ties: dict[str, str] = {}
        self.deep = deep

    def __call__(self, values: Views, x: Tensor, tape: list[Pull] | None) -> Tensor:
        """Return the output [n, B, ...] of the last layer."""
        if tape is None or not (self.names or self.deep):
            return self._run(values, x)
        start = x.detach().requires_grad_(self.deep)
        leaves = {k: values[k].clone().requires_grad_() for k in self.names}
        with torch.enable_grad():
            y = self._run({**values, **leaves}, start)

        def pull(dy: Tensor, grads: Views) -> Tensor | None:
            # ``deep`` as a number: the last one, the input, is asked for only if it
            # counts.
            asked = [*leaves.values(), start][: len(leaves) + self.deep]
            found = torch.autograd.grad(y, asked, dy)
            for name, grad in zip(leaves, found, strict=False):
                grads[name].copy_(grad)
            return found[-1] if self.deep else None

        tape.append(pull)
        return y.detach()

    def _run(self, values: Views, x: Tensor) -> Tensor:
        if self.ties:
            values = values | {tied: values[name] for tied, name in self.ties.items()}
        for op in self.ops:
            x = op(x, values)
        return x


Kernel = Dense | Native


# --- which layers -----------------------------------------------------------------


def kernels_of(model: nn.Module, layout: Layout) -> list[Kernel] | None:
    """Return the kernels of a sequential model, or None if a part of it is not
    known here.

    Unknown are also frozen and tied parameters, and modules with hooks.
    """
    kernels: list[Kernel] = []
    leaves = list(_leaves(model, ""))
    named = [name for prefix, module in leaves for name in _names(prefix, module)]
    # Tied parameters appear twice, frozen ones only here: neither has a kernel.
    if sorted(named) != sorted(entry.name for entry in layout.parameters):
        return None
    for name, module in leaves:
        last = kernels[-1] if kernels else None
        deep = any(kernel.names for kernel in kernels)
        if type(module) is nn.ReLU and isinstance(last, Dense) and not last.rectify:
            last.rectify = True
            continue
        if type(module) is nn.Linear:
            kernels.append(Dense(_names(name, module), deep))
            continue
        if (op := op_of(name, module)) is None:
            return None
        if not isinstance(last, Native):
            kernels.append(last := Native(deep))
        last.ops.append(op)
        last.names += _names(name, module)
        last.ties |= _ties(name, module)
    # Hooks run when a module is called, and kernels call none.
    return None if any(map(_has_hooks, model.modules())) else kernels


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield name, module
        return
    # named_children() skips repetitions
    children: dict[str, nn.Module] = vars(module)["_modules"]
    for key, child in children.items():
        yield from _leaves(child, join(name, key))


def _has_hooks(module: nn.Module) -> bool:
    state = vars(module)
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
    )
    return "forward" in state or any(state[name] for name in hooks)


def join(name: str, key: str) -> str:
    """Return what a part of a module is called."""
    return f"{name}.{key}" if name else key


def _names(name: str, module: nn.Module) -> list[str]:
    return [join(name, key) for key, _ in module.named_parameters()]


def _ties(name: str, module: nn.Module) -> dict[str, str]:
    """Return the further names of parameters that have several, and their first."""
    first = {id(p): key for key, p in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    pairs = ((key, first[id(p)]) for key, p in every)
    return {join(name, key): join(name, own) for key, own in pairs if key != own}


def op_of(name: str, module: nn.Module) -> Op | None:
    """Return what computes a module for all rows, None where it is not known."""
    maker = _OPS.get(type(module))
    return maker(name, module) if maker else None


def stacks(kind: type[nn.Module]) -> Callable[[Maker], Maker]:
    """Register how modules of a type, and not of those derived from it, are computed
    for all rows; it stands beside the module.
    """

    def register(maker: Maker) -> Maker:
        _OPS[kind] = maker
        return maker

    return register


def _fold(x: Tensor) -> Tensor:
    """[n, B, C, ...] -> [B, n C, ...], without a copy where memory is in that
    order.
    """
    return x.transpose(0, 1).flatten(1, 2)


def _unfold(y: Tensor, n: int) -> Tensor:
    return y.unflatten(1, (n, -1)).transpose(0, 1)


def _channels_last(x: Tensor) -> Tensor:
    """Put images into the order of memory in which grouped convolution and pooling
    are fast.

    Double precision has no such kernels, and those it has would depend on the
    number of rows.
    """
    fast = x.dim() == 4 and x.dtype != torch.float64
    return x.contiguous(memory_format=torch.channels_last) if fast else x


def _affine(name: str, values: Views) -> tuple[Tensor | None, Tensor | None]:
    """Return weight [n C, ...] and bias [n C] of a folded layer, None where it has
    none.
    """
    weight, bias = values.get(join(name, "weight")), values.get(join(name, "bias"))
    return (
        None if weight is None else weight.flatten(0, 1),
        None if bias is None else bias.flatten(0, 1),
    )


def _elementwise(name: str, module: Any) -> Op:
    apart = copy.copy(module)
    # What was the input may be on the tape still.
    apart.inplace = False
    return lambda x, values: apart(x)


def _pool(name: str, module: Any) -> Op | None:
    if getattr(module, "return_indices", False):
        return None
    return lambda x, values: _unfold(module(_channels_last(_fold(x))), x.shape[0])


def _flatten(name: str, module: Any) -> Op | None:
    first, last = module.start_dim, module.end_dim
    if first < 1:
        return None
    return lambda x, values: x.flatten(first + 1, last + 1 if last >= 0 else last)


def _convolution(name: str, module: Any) -> Op | None:
    convolve: Any = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[
        type(module)
    ]
    if module.padding_mode != "zeros":
        return None

    def op(x: Tensor, values: Views) -> Tensor:
        # Rows become groups of one convolution, so that all of them take a single
        # call.
        groups = x.shape[0] * module.groups
        how = module.stride, module.padding, module.dilation, groups
        y = convolve(_channels_last(_fold(x)), *_affine(name, values), *how)
        return _unfold(y, x.shape[0])

    return op


def _linear(name: str, module: Any) -> Op:
    weight, bias = join(name, "weight"), join(name, "bias")

    def op(x: Tensor, values: Views) -> Tensor:
        inputs, across = x.flatten(1, -2), values[weight].transpose(1, 2)
        if bias in values:
            y = torch.baddbmm(values[bias].unsqueeze(1), inputs, across)
        else:
            y = torch.bmm(inputs, across)
        return y.view(*x.shape[:-1], -1)

    return op


def _embedding(name: str, module: Any) -> Op | None:
    plain = (
        module.padding_idx,
        module.max_norm,
        module.scale_grad_by_freq,
        module.sparse,
    )
    if plain != (None, None, False, False):
        return None

    def op(x: Tensor, values: Views) -> Tensor:
        weight = values[join(name, "weight")]
        n, count = weight.shape[:2]
        low, high = x.aminmax()
        # Another row's would be taken for one that is not there.
        if low < 0 or high >= count:
            raise IndexError(f"index out of range: {low} to {high} of {count}")
        first = torch.arange(n, device=x.device) * count
        places = x + first.view(n, *[1] * (x.dim() - 1))
        return F.embedding(places, weight.flatten(0, 1))

    return op


def _last_norm(name: str, module: Any) -> Op:
    """Normalise over the last dimensions, and only then scale each row by its own."""
    scale, shift = join(name, "weight"), join(name, "bias")
    eps, shape = module.eps, list(module.normalized_shape)

    def op(x: Tensor, values: Views) -> Tensor:
        one = [x.shape[0], *[1] * (x.dim() - len(shape) - 1), *shape]
        rms = type(module) is nn.RMSNorm
        y = F.rms_norm(x, shape, None, eps) if rms else F.layer_norm(x, shape, eps=eps)
        y = y * values[scale].view(one) if scale in values else y
        return y + values[shift].view(one) if shift in values else y

    return op


def _group_norm(name: str, module: Any) -> Op:
    def op(x: Tensor, values: Views) -> Tensor:
        groups = x.shape[0] * module.num_groups
        y = F.group_norm(_fold(x), groups, *_affine(name, values), module.eps)
        return _unfold(y, x.shape[0])

    return op


def _batch_norm(name: str, module: Any) -> Op | None:
    if module.momentum is None or not module.track_running_stats:
        return None
    stats = join(name, "running_mean"), join(name, "running_var")
    count = join(name, "num_batches_tracked")

    def op(x: Tensor, values: Views) -> Tensor:
        # torch updates the flat copies; ``copy_`` below takes them back into the
        # rows.
        mean, var = (values[key].clone().flatten() for key in stats)
        how = module.training, module.momentum, module.eps
        y = F.batch_norm(_fold(x), mean, var, *_affine(name, values), *how)
        if module.training:
            for key, value in zip(stats, (mean, var), strict=True):
                values[key].copy_(value.view_as(values[key]))
            values[count].add_(1)
        return _unfold(y, x.shape[0])

    return op


def chain(name: str, module: nn.Module) -> Op | None:
    """Return the layers of a sequence as one, or None if a part of it is not known
    here.
    """
    ops: list[Op] = []
    for prefix, leaf in _leaves(module, name):
        if (op := op_of(prefix, leaf)) is None:
            return None
        ops.append(op)

    def run(x: Tensor, values: Views) -> Tensor:
        for op in ops:
            x = op(x, values)
        return x

    return run


_OPS: dict[type[nn.Module], Maker] = {
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.LayerNorm: _last_norm,
    nn.RMSNorm: _last_norm,
    nn.GroupNorm: _group_norm,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d), _pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _pool),
    **dict.fromkeys((nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU), _elementwise),
    **dict.fromkeys((nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus), _elementwise),
}
