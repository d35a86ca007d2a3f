"""The private parts of PyTorch that are used, all of them.

What a release may change without a word stands here and nowhere else:
pyproject.toml bounds the releases, and tests/test_private.py fails where one of
these parts is no more what it was.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from datetime import timedelta
from threading import RLock
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.optim.optimizer import (
    _global_optimizer_post_hooks as _after_any_step,  # pyright: ignore[reportPrivateUsage]
)
from torch.optim.optimizer import (
    _global_optimizer_pre_hooks as _before_any_step,  # pyright: ignore[reportPrivateUsage]
)

#: What all layers of BatchNorm are, those of other libraries included; torch has no
#: public name.
BatchNorm = _BatchNorm


def silence_vmap() -> None:
    """Keep torch from warning of each function that its vmap runs row by row.

    Which these are is none of a user's concern, and a run may meet many.
    """
    torch._C._functorch._set_vmap_fallback_warning_enabled(False)  # pyright: ignore


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


_COMPILER = "torch._dynamo"
_loading = RLock()


class _Deferred(ModuleType):
    """Torch's compiler before anybody needs it; it becomes the real module then.

    Optimizers import it at every step, for two functions that do nothing for whoever
    compiles nothing. Loading it takes 2 s, more than a small run.
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
