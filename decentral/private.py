"""The private parts of PyTorch that are used, all of them.

What a release may change without a word stands here and nowhere else:
pyproject.toml bounds the releases, and tests/test_private.py fails where one of
these parts is no more what it was.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import RLock
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.optim.adam import adam
from torch.optim.optimizer import (
    _global_optimizer_post_hooks as _after_any_step,  # pyright: ignore[reportPrivateUsage]
)
from torch.optim.optimizer import (
    _global_optimizer_pre_hooks as _before_any_step,  # pyright: ignore[reportPrivateUsage]
)
from torch.optim.sgd import sgd

#: What all layers of BatchNorm are, those of other libraries included; torch has no
#: public name.
BatchNorm = _BatchNorm


def silence_vmap() -> None:
    """Keep torch from warning of each function that its vmap runs row by row.

    Which these are is none of a user's concern, and a run may meet many.
    """
    torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # pyright: ignore


def is_transformed() -> bool:
    """Whether a function of ``torch.func`` is under way, such as vmap."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # pyright: ignore


def count_changes(tensor: Tensor) -> int:
    """Return how often a tensor, or whatever shares its storage, was changed in
    place.
    """
    return tensor._version


def inner_schedulers(scheduler: Any) -> tuple[Any, ...]:
    """Return the schedulers that a chain or a sequence of them steps; of others
    none.
    """
    return tuple(getattr(scheduler, "_schedulers", ()))


def step_quietly(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer take a step without the note that torch leaves its profiler,
    which takes longer than the update of a small model; with it where hooks are
    registered.
    """
    whole = type(optimizer).step
    # The mark of torch's own wrapper; a user's may do anything.
    inner = getattr(whole, "__wrapped__", None) if hasattr(whole, "hooked") else None
    hooks = (
        _before_any_step,
        _after_any_step,
        optimizer._optimizer_step_pre_hooks,  # pyright: ignore[reportPrivateUsage]
        optimizer._optimizer_step_post_hooks,  # pyright: ignore[reportPrivateUsage]
    )
    if inner is None or any(hooks) or "step" in vars(optimizer):
        optimizer.step()
    else:
        inner(optimizer)


def step_together(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Let optimizers that were made alike, of a row each, take a step: in one call
    where they are torch's SGD or Adam, whose kernels take lists of tensors.

    Most of a step of a small row is the way to the kernel.
    """
    first = optimizers[0]
    joined = _JOINED.get(type(first))
    quiet = not any((
        _before_any_step, _after_any_step, first._optimizer_step_pre_hooks,  # pyright: ignore[reportPrivateUsage]
        first._optimizer_step_post_hooks,  # pyright: ignore[reportPrivateUsage]
    ))  # fmt: skip
    several = quiet and len(optimizers) > 1 and all(map(_has_begun, optimizers))
    if joined is not None and several:
        with torch.no_grad():
            joined(optimizers)
    else:
        for one in optimizers:
            step_quietly(one)


def _has_begun(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer has all of its state, and one group of settings."""
    (group, *more), state = optimizer.param_groups, optimizer.state
    if more or "step" in vars(optimizer):
        return False
    # Without momentum there is no state to be made by a first step.
    return group.get("momentum", 1.0) == 0 or all(state.get(p) for p in group["params"])


#: Settings of a group that the kernels take as they are.
_SGD = (
    "weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize", "foreach",
    "fused",
)  # fmt: skip
_ADAM = (
    "amsgrad", "lr", "weight_decay", "eps", "maximize", "foreach", "capturable",
    "differentiable", "fused", "decoupled_weight_decay",
)  # fmt: skip


def _step_sgd(optimizers: Sequence[Any]) -> None:
    params, grads, buffers = [], [], []
    for one in optimizers:
        one._init_group(one.param_groups[0], params, grads, buffers)
    group = optimizers[0].param_groups[0]
    given = {name: group[name] for name in _SGD}
    sgd(params, grads, buffers, has_sparse_grad=False, **given)


def _step_adam(optimizers: Sequence[Any]) -> None:
    lists: list[list[Any]] = [[] for _ in range(6)]
    for one in optimizers:
        one._init_group(one.param_groups[0], *lists)
    group = optimizers[0].param_groups[0]
    beta1, beta2 = group["betas"]
    given = {name: group[name] for name in _ADAM}
    cast(Any, adam)(*lists, beta1=beta1, beta2=beta2, **given)


#: By class; one that is derived from these may do anything.
_JOINED: dict[type[torch.optim.Optimizer], Callable[[Sequence[Any]], None]] = {
    torch.optim.SGD: _step_sgd,
    torch.optim.Adam: _step_adam,
    torch.optim.AdamW: _step_adam,
}


def multiply_all(tensors: list[Tensor], factors: list[float]) -> None:
    """Multiply every tensor by a factor of its own, in place."""
    torch._foreach_mul_(tensors, factors)  # pyright: ignore


def add_all(tensors: list[Tensor], others: list[Tensor], factor: float) -> None:
    """Add ``factor`` times another to every tensor, in place.

    Args:
        tensors: What is added to.
        others: What is added.
        factor: How many times.
    """
    torch._foreach_add_(tensors, others, alpha=factor)  # pyright: ignore


def copy_all(tensors: list[Tensor], others: list[Tensor]) -> None:
    """Copy another into every tensor."""
    torch._foreach_copy_(tensors, others)  # pyright: ignore


_COMPILER = "torch._dynamo"
_loading = RLock()


class _Deferred(ModuleType):
    """Torch's compiler before anybody needs it; it becomes the real module then.

    Optimizers import it at every step, for two functions that do nothing for
    whoever compiles nothing. Loading it takes 2 s, more than a small run.
    """

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Keep a compiler from looking further: there is none."""

    @staticmethod
    def disable(fn: Callable[..., Any], *given: Any, **settings: Any) -> Any:
        """Return ``fn``, kept from the compiler as soon as there is one."""
        hidden: list[Callable[..., Any]] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            module = sys.modules[_COMPILER]
            if isinstance(module, _Deferred):
                return fn(*args, **kwargs)
            if not hidden:
                hidden.append(module.disable(fn, *given, **settings))
            return hidden[0](*args, **kwargs)

        return call

    def __getattr__(self, name: str) -> Any:
        # Without its path before: a submodule, too, needs the package first.
        with _loading:
            if type(self) is _Deferred and "__path__" not in vars(self):
                spec = self.__spec__
                assert spec is not None
                assert spec.loader is not None
                self.__path__ = spec.submodule_search_locations or []
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # pyright: ignore
            elif type(self) is _Deferred:  # asked by the module itself, while it loads
                raise AttributeError(name)
        return getattr(self, name)


def defer_compiler() -> None:
    """Let optimizers step without loading torch's compiler, until it is used.

    ``torch.compile``, and whatever else asks for a part of it, loads it as ever.
    """
    if _COMPILER in sys.modules:
        return
    spec = importlib.util.find_spec(_COMPILER)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    del module.__path__
    module.__class__ = _Deferred
    sys.modules[_COMPILER] = torch._dynamo = module  # pyright: ignore


def gloo_group(
    gloo: Any, store: Any, rank: int, world: int, timeout: timedelta, address: str
) -> Any:
    """Return a group of processes that Gloo connects through addresses of our
    choice.

    It is made directly: ``init_process_group`` takes no device, and then connects
    through whatever address the host's name resolves to; and it knows one group per
    process.

    Args:
        gloo: ``torch.distributed.ProcessGroupGloo``.
        store: Where the processes meet.
        rank: Of this process.
        world: How many there are.
        timeout: The longest wait for others.
        address: This process's own, the one to which others connect.
    """
    options = gloo._Options()
    options._timeout = timeout
    options._devices = [gloo.create_device(hostname=address)]
    return gloo(store, rank, world, options)


def nccl_group(
    nccl: Any, store: Any, rank: int, world: int, timeout: timedelta, device: torch.device
) -> Any:
    """Return a group of processes that NCCL connects; see ``gloo_group``.

    Args:
        nccl: ``torch.distributed.ProcessGroupNCCL``.
        store: Where the processes meet.
        rank: Of this process.
        world: How many there are.
        timeout: The longest wait for others.
        device: This process's GPU.
    """
    options = nccl.Options()
    options._timeout = timeout
    group = nccl(store, rank, world, options)
    group.eager_connect_single_device(device)
    return group


def start_coalescing(group: Any) -> None:
    """Begin operations that start together, where ``group.supports_coalescing``."""
    group._start_coalescing()


def end_coalescing(group: Any) -> Any:
    """Start what was posted since ``start_coalescing``; return one work for all of
    it.
    """
    return group._end_coalescing()


def all_gather(group: Any, found: Tensor, mine: Tensor) -> Any:
    """Gather flat values of every worker into ``found``, one after the other;
    return the work.
    """
    return group._allgather_base(found, mine)
