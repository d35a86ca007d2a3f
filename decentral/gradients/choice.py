"""Which way of computing gradients a run takes: tried on its model before anything
runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf

import torch
from torch import Tensor, nn

from decentral.blame import words_and_place
from decentral.errors import ConfigError
from decentral.gradients.autograd import LoopGradient, VmapGradient, make_stacked_forward
from decentral.gradients.base import (
    ROWS,
    Batch,
    Gradient,
    Loss,
    Reduced,
    count_saved_numbers,
    repeated_layers,
    rows_at_once,
)
from decentral.gradients.kernels import kernels_of
from decentral.gradients.layers import LayerGradient
from decentral.layout import Layout, share_parameters
from decentral.private import silence_vmap
from decentral.pytree import shapes, tree_at
from decentral.rng import fork_rng

#: Times that ``replicas: tune`` computes a batch in either way; the fastest counts.
_TRIES = 4
#: Where computing rows together beats one after the other: least rows, most
#: parameters of a model and most numbers that a row keeps for its backward pass, by
#: class and device (CPU: benchmarks/rows.py; CUDA, not measured: launches bound
#: small models).
_TOGETHER: dict[tuple[type, str], tuple[int, float, float]] = {
    (LayerGradient, "cpu"): (2, inf, inf),
    (VmapGradient, "cpu"): (8, 1 << 17, 1 << 19),
    (LayerGradient, "cuda"): (2, inf, inf),
    (VmapGradient, "cuda"): (2, inf, inf),
}


def choose(
    replicas: str,
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    nodes: int,
    probe: Callable[[], Batch],
    precision: str = "same",
    mode: str | None = None,
    label: str = "the model",
    again: bool = False,
) -> tuple[Gradient, str]:
    """Return the gradient for ``replicas: vmap | loop | auto | tune`` and, in
    words, why.

    ``auto`` takes what a shipped table says is faster, ``tune`` what is faster on a
    few batches, among what the model allows in this ``precision``. What is
    compiled, in a ``mode`` of ``torch.compile``, are all rows together.

    Args:
        replicas: How rows are computed.
        model: The module.
        layout: Where each parameter stands in a row.
        loss: The task's loss.
        nodes: Rows of the block.
        probe: Returns a batch to try it on.
        precision: ``same`` or ``bfloat16``.
        mode: Mode of ``torch.compile``; none: not compiled.
        label: What messages call the model.
        again: Whether repeated layers are computed again on the way back.
    """
    silence_vmap()
    # Trials change buffers and draw numbers: those of the run stay as they are.
    model, batch = share_parameters(model).train(), probe()
    apart = _loop(model, layout, loss, batch, label)
    loop: Gradient = apart
    if again:
        loop = _recomputing(apart, model, layout, loss, batch, label)
        why = "one row at a time, layers computed again on the way back"
        if precision == "bfloat16":
            return Reduced(loop), f"{why}, in bfloat16"
        return loop, why
    kept = count_saved_numbers(model, tree_at(batch.inputs, 0))
    at_once = rows_at_once(kept, layout.width, batch.keys.device)
    if mode is not None:
        whole = VmapGradient(model, layout, loss, at_once)
        return _compile_gradient(whole, mode, precision, model, batch), _many(
            at_once, nodes, "compiled"
        )
    together, how = _together(model, layout, loss, at_once, nodes)
    why = "as asked" if replicas == "loop" else None
    if replicas in ("auto", "tune") and nodes == 1:
        why = "there is one"
    elif replicas == "auto":
        # From a table, not by measuring: the way changes the last bits, and a run
        # has to come out the same each time.
        why = _slower(together, batch.keys.device, nodes, layout, kept)
    if precision == "bfloat16":
        loop, together, how = Reduced(loop), Reduced(together), f"{how}, in bfloat16"
    if why is None and (problem := _trial(together, model, layout, batch)):
        if replicas == "vmap":
            raise ConfigError(
                f"replicas: vmap cannot run this model ({problem}); use replicas=loop."
            )
        why = f"vmap cannot run this model ({problem})"
    if why is None and replicas == "tune":
        why = _time_gradients(loop, together, model, layout, batch)
    if why is None:
        return together, how
    how = "one row at a time" + (", in bfloat16" if precision == "bfloat16" else "")
    return loop, f"{how}: {why}"


def _together(
    model: nn.Module, layout: Layout, loss: Loss, at_once: int, nodes: int
) -> tuple[Gradient, str]:
    """Return the gradient that computes rows together, and how it does it in words."""
    kernels = kernels_of(model, layout)
    if kernels:
        layers = LayerGradient(kernels, layout, loss, at_once)
        return layers, _many(at_once, nodes, "layer by layer")
    return VmapGradient(model, layout, loss, at_once), _many(at_once, nodes, "by vmap")


def _many(at_once: int, nodes: int, how: str) -> str:
    many = "all rows" if at_once >= min(nodes, ROWS) else f"{at_once} rows at a time"
    return f"{many} together, {how}"


def _compile_gradient(
    gradient: VmapGradient, mode: str, precision: str, model: nn.Module, batch: Batch
) -> Gradient:
    """Return the gradient after its first, slow call; raises ConfigError where it
    cannot be.
    """
    layout, count = gradient.layout, gradient.at_once
    whole: Gradient = Reduced(gradient) if precision == "bfloat16" else gradient
    if problem := _trial(whole, model, layout, batch):
        raise ConfigError(
            f"compile: what is compiled is vmap, which cannot run this model ({problem}); "
            "leave compile out."
        )
    # Tried uncompiled first: what vmap cannot do is said in its own words.
    gradient.compile(mode)
    if problem := _trial(whole, model, layout, batch, count):
        raise ConfigError(
            f"compile: torch cannot compile here ({problem}); leave compile out."
        )
    return whole


def _slower(
    gradient: Gradient, device: torch.device, nodes: int, layout: Layout, kept: int
) -> str | None:
    """Return, in words, why computing rows together would not be faster, None where
    it is.
    """
    known = _TOGETHER.get((type(gradient), device.type), (2, inf, inf))
    rows, parameters, most = known
    if nodes >= rows and layout.parameter_count <= parameters and kept <= most:
        return None
    return f"faster than vmap for {nodes} rows of {layout.parameter_count:,} parameters"


def _time_gradients(
    loop: Gradient, together: Gradient, model: nn.Module, layout: Layout, batch: Batch
) -> str | None:
    """Return, in words, that the loop was faster on a batch, None where it was not."""
    rows, integers = _copies(model, layout, len(batch.keys))
    out = torch.zeros_like(rows)
    took: list[float] = []
    for gradient in (loop, together):
        times: list[float] = []
        for _ in range(_TRIES):
            begin = time.perf_counter()
            # ``item`` waits for the device; without it only the launch would be
            # measured.
            gradient(rows, integers, batch, out).sum().item()
            times.append(time.perf_counter() - begin)
        took.append(1e3 * min(times))
    one, all_ = took
    return f"measured {one:.3g} ms, {all_:.3g} ms together" if one < all_ else None


def _loop(
    model: nn.Module, layout: Layout, loss: Loss, batch: Batch, label: str
) -> LoopGradient:
    loop = LoopGradient(model, layout, loss)
    follows: list[bool] = []

    def attempt() -> None:
        # Whoever prepares a run may do so under torch.no_grad.
        with torch.enable_grad():
            found = loop.forward(0, batch)
        if found.numel() != 1:
            raise ValueError(
                f"the loss is {list(found.shape)} numbers, where one is wanted, such as their mean"
            )
        follows.append(found.requires_grad)

    with fork_rng():
        before = torch.get_rng_state()
        problem = _problem(attempt)
        # Whether the model draws numbers of its own shows in the state of the
        # generator.
        loop.draws = not torch.equal(before, torch.get_rng_state())
        loop.keep_assigned()
    if problem:
        raise ConfigError(
            f"{label} and the loss fail on a batch {shapes(batch.inputs, skip=1)} of the task "
            f"({problem}); check shapes and types."
        )
    if not all(follows):
        raise ConfigError(
            f"{label} and the loss: no parameter changes the loss on a batch of the task, as far "
            "as gradients tell; leave out torch.no_grad, detach and numpy on the way to it."
        )
    return loop


def _recomputing(
    plain: LoopGradient,
    model: nn.Module,
    layout: Layout,
    loss: Loss,
    batch: Batch,
    label: str,
) -> LoopGradient:
    """Return a loop with activation checkpointing, or refuse a model that it changes.

    Args:
        plain: The loop without.
        model: The module.
        layout: Where each parameter stands in a row.
        loss: The task's loss.
        batch: A batch to try it on.
        label: What messages call the model.
    """
    if not repeated_layers(model):
        raise ConfigError(
            f"activation_checkpointing: {label} has no layers of parts in an nn.ModuleList or "
            "nn.Sequential, which could be computed again; leave it out."
        )
    found = LoopGradient(model, layout, loss, again=True)
    found.draws, batch = plain.draws, _first(batch, 1)
    results: list[list[Tensor]] = []
    problem = None
    for loop in (plain, found):
        rows, integers = _copies(model, layout, 1)
        out = torch.zeros_like(rows)
        problem = _problem(partial(loop, rows, integers, batch, out))
        results.append([out, rows, *integers.values()])
    if problem or not all(map(torch.equal, *results)):
        why = problem or "statistics of batches, say, are counted twice"
        raise ConfigError(
            f"activation_checkpointing: {label} does not come out the same when its layers are "
            f"computed again ({why}); leave it out."
        )
    return found


def _trial(
    gradient: Gradient,
    model: nn.Module,
    layout: Layout,
    batch: Batch,
    count: int | None = 2,
) -> str | None:
    """Return why ``count`` rows cannot be computed together, in one line, or None
    if they can.

    Both what trains and what evaluates is tried: torch differentiates some layers
    under vmap, such as recurrent ones, that it cannot merely run there.
    """
    batch = _first(batch, count)
    rows, integers = _copies(model, layout, len(batch.keys))
    train = lambda: gradient(rows, integers, batch, torch.zeros_like(rows))  # noqa: E731
    return _problem(train) or _evaluation_trial(model, layout, batch)


def _first(batch: Batch, count: int | None) -> Batch:
    """Return the batches of the first ``count`` rows."""
    some = slice(count)
    return Batch(
        tree_at(batch.inputs, some), tree_at(batch.targets, some), batch.keys[some]
    )


def _evaluation_trial(model: nn.Module, layout: Layout, batch: Batch) -> str | None:
    """Return why rows cannot be evaluated together, on the same inputs or each on
    its own.
    """
    rows, integers = _copies(model, layout, len(batch.keys))
    probe = share_parameters(model).eval()

    def evaluate() -> None:
        with torch.no_grad():
            make_stacked_forward(probe, layout)(rows, integers, tree_at(batch.inputs, 0))
            make_stacked_forward(probe, layout, own=True)(rows, integers, batch.inputs)

    return _problem(evaluate)


def _copies(
    model: nn.Module, layout: Layout, count: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return rows [count, P] that all hold the model, and their integer buffers."""
    row = next(model.parameters()).new_zeros(layout.width)
    layout.pack(model, row)
    whole = {
        k: torch.stack([v] * count).to(row.device) for k, v in layout.integers.items()
    }
    return row.repeat(count, 1), whole


def _problem(run: Callable[[], object]) -> str | None:
    """Return why ``run`` fails, in one line, or None if it does not."""
    try:
        run()
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        return words_and_place(error, 120)
    return None
