"""Optimizers of matrices: which parameters they take, in batches of one shape, and
matrix signs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, islice, repeat
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from decentral.errors import ConfigError
from decentral.optim.blocks import block_of

#: Patterns and blocks of the matrices that are left to AdamW, unless the user says
#: otherwise; ``output`` is the last one of a model whose names tell no head.
EXCLUDE = ("embedding", "head", "output", "*shared_expert_gate*")
#: Dimensions of the filters of convolutions over images and volumes.
_FILTERS = (4, 5)
#: Blocks whose parameters may have the three dimensions of filters over sequences.
_OTHERS = {"embedding", "experts", "norm"}


@dataclass
class Member:
    """A parameter with its gradient, its state, its name and its block.

    ``value`` and ``grad`` are matrices, or as the parameter is where it is none;
    what is kept in ``state`` has the shape of the parameter.
    """

    name: str
    block: str | None
    parameter: Tensor  # [..., *shape]: nodes first, in a block of rows
    value: Tensor
    grad: Tensor
    state: dict[str, Any]

    def as_matrices(self, leading: int) -> Member:
        """Return it with the filters [out, in, height, width] of a convolution as
        one matrix [out, in height width], as Jordan has them.
        """
        if not is_filters(self.name, self.value.shape[leading:]):
            return self
        value, grad = (part.flatten(leading + 1) for part in (self.value, self.grad))
        return replace(self, value=value, grad=grad)

    def matrices(self, state: Tensor) -> Tensor:
        """Return a state of the parameter's shape as the matrices are."""
        same = state.shape == self.parameter.shape
        return state.view(self.value.shape) if same else state


class Bucket:
    """Matrices of one shape: those of several parameters, nodes and experts, side
    by side.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """Take members whose last two dimensions agree."""
        self.members = members
        self.rows, self.cols = members[0].value.shape[-2:]

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return one tensor per member as [m, ...], in one block; not to be
        changed.
        """
        flat = self._flat(tensors)
        # A single member is not copied, which is why the result must not be
        # changed.
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def _flat(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        dims = tensors[0].shape[self.members[0].value.dim() - 2 :]
        return [t.reshape(-1, *dims) for t in tensors]

    def state(self, key: str) -> Tensor:
        """Return a copy of every member's state as [m, ...]."""
        states = [member.matrices(member.state[key]) for member in self.members]
        return torch.cat(self._flat(states))

    def store(self, key: str, values: Tensor) -> None:
        """Write values [m, ...] back into the states."""
        for member, part in zip(self.members, self.split(values), strict=True):
            target = member.state[key]
            target.copy_(part.view(target.shape))

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """Return the part of each member of [m, ...]."""
        return values.split([prod(member.value.shape[:-2]) for member in self.members])

    def move(self, direction: Tensor, rate: float, decay: float) -> None:
        """Update the members: W <- (1 - decay) W - rate D.

        Args:
            direction: Direction of every matrix, D.
            rate: How far it goes.
            decay: Share of the weights that is taken off.
        """
        for member, part in zip(self.members, self.split(direction), strict=True):
            # the parameter itself: the matrices of filters may be a copy
            shaped = part.view(member.parameter.shape)
            member.parameter.mul_(1 - decay).add_(shaped, alpha=-rate)


class MatrixOptimizer(torch.optim.Optimizer, ABC):
    """An optimizer of matrices; everything that is no matrix, or is excluded, goes
    to AdamW.

    Takes ``model.named_parameters()``: names tell embeddings and the head from
    hidden matrices; without names only the shape counts. The filters of a
    convolution are one matrix. ``exclude`` lists blocks (``"embedding"``), patterns
    of names (``"layers.0.*"``), ``"output"`` (see `output_layer`) and
    ``"convolution"`` for what is left to AdamW. Parameters may have ``leading``
    dimensions before their own, over which nothing is ever mixed: the nodes of a
    block of rows. Experts in one tensor, [experts, rows, cols], are so many
    matrices.
    """

    def __init__(self, params: Any, lr: float, **settings: Any) -> None:
        """Take the settings that all groups share; raises ConfigError where none is
        a matrix.
        """
        super().__init__(params, {"lr": lr, "leading": 0, **settings})
        named = list(self._shapes())
        #: Name of the output layer, where names tell no other head.
        self.output = output_layer(named)
        if not any(is_matrix(name, shape) for name, shape in named):
            raise ConfigError(
                f"{type(self).__name__} updates matrices, and the model has none; use adamw."
            )

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for group in self.param_groups:
            for name, value in _with_names(group):
                yield name, tuple(value.shape[group["leading"] :])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices: dict[Any, list[Member]] = {}
            others: list[Member] = []
            for member in self._members(group):
                shape = tuple(member.value.shape[group["leading"] :])
                if takes(member.name, shape, group["exclude"], self.output):
                    member = member.as_matrices(group["leading"])
                    matrices.setdefault(self.bucket_key(member), []).append(member)
                else:
                    others.append(member)
            # Matrices of one shape together: a batched product of them takes little
            # longer than one.
            for members in matrices.values():
                self.update_matrices(group, Bucket(members))
            if others:
                self.update_others(group, others)
        return loss

    def _members(self, group: dict[str, Any]) -> Iterator[Member]:
        for name, value in _with_names(group):
            if value.grad is not None:
                state: dict[str, Any] = self.state[value]
                # A tensor of float32, as torch's own optimizers count.
                state.setdefault("step", torch.tensor(0.0)).add_(1)
                yield Member(name, block_of(name), value, value, value.grad, state)

    def bucket_key(self, member: Member) -> Any:
        """Return what members of one bucket have in common."""
        # filters apart from matrices of their size, which have another factor
        return member.value.shape[-2:], member.parameter.shape[-2:]

    @abstractmethod
    def update_matrices(self, group: dict[str, Any], bucket: Bucket) -> None:
        """Update the matrices of one bucket."""

    def update_others(self, group: dict[str, Any], members: list[Member]) -> None:
        """Update the rest: AdamW, exactly torch's."""
        beta1, beta2 = group["betas"]
        adamw(
            [m.value for m in members],
            [m.grad for m in members],
            [zeros(m, "exp_avg") for m in members],
            [zeros(m, "exp_avg_sq") for m in members],
            [],
            [m.state["step"] - 1 for m in members],  # it counts this step itself
            foreach=False,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _with_names(group: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a group with their names, empty where it has none."""
    names = group.get("param_names") or [""] * len(group["params"])
    return zip(names, group["params"], strict=True)


def is_filters(name: str, shape: Sequence[int]) -> bool:
    """Return whether a parameter holds the filters of a convolution.

    Those over sequences have three dimensions, as other parameters may: ``weight``
    is what layers of torch call them.

    >>> is_filters("0.weight", (8, 4, 3)), is_filters("norm.weight", (8, 4, 3))
    (True, False)
    """
    sequence = len(shape) == 3 and name.rpartition(".")[2] == "weight"
    return len(shape) in _FILTERS or (sequence and block_of(name) not in _OTHERS)


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Return whether a parameter is a matrix, or several: experts in one tensor,
    the filters of a convolution.
    """
    experts = len(shape) == 3 and block_of(name) == "experts"
    return len(shape) == 2 or experts or is_filters(name, shape)


def output_layer(named: Sequence[tuple[str, Sequence[int]]]) -> str | None:
    """Return the name of the output layer where no name tells a head: the last
    matrix.

    Muon is for hidden layers; embeddings, output layers and all that is no matrix
    go to AdamW (Jordan, 2024). Where names tell embeddings, the head may be tied to
    one, and no other is looked for; a model with one matrix has no hidden one.
    Names that tell attention or experts are those of hidden layers, and so is
    ``fc2`` beside attention.

    Args:
        named: Names and shapes of a model's parameters, in its order.

    >>> output_layer([("0.weight", (8, 4)), ("0.bias", (8,)), ("2.weight", (3, 8))])
    '2.weight'
    """
    matrices = [(n, s) for n, s in named if is_matrix(n, s)]
    blocks = {block_of(name) for name, _ in named}
    if blocks & {"head", "embedding"} or len(matrices) < 2 or len(matrices[-1][1]) != 2:
        return None
    name = matrices[-1][0]
    hidden = {"qk", "vo", "qkv", "experts", "router"}
    attends = bool(blocks & {"qk", "vo", "qkv"})
    if block_of(name) in hidden or (attends and block_of(name) is not None):
        return None
    return name or None


def takes(
    name: str, shape: Sequence[int], exclude: Sequence[str], output: str | None = None
) -> bool:
    """Return whether an optimizer of matrices takes a parameter, or leaves it to
    AdamW.

    Args:
        name: Name of the parameter.
        shape: Its shape.
        exclude: Blocks, and patterns of names, that are left to AdamW.
        output: Name of the output layer.
    """
    block = block_of(name)
    left = any(pattern == block or fnmatchcase(name, pattern) for pattern in exclude)
    left |= "output" in exclude and name == output
    left |= "convolution" in exclude and is_filters(name, shape)
    return is_matrix(name, shape) and not left


def zeros(member: Member, key: str, shape: Sequence[int] | None = None) -> Tensor:
    """Return a state of a member, at first zeros: of its own shape, or of one per
    matrix.

    Args:
        member: A parameter and its state.
        key: Name of the state.
        shape: Shape of one matrix's; none: that of the parameter.
    """
    if key not in member.state:
        stacked = member.value.shape[:-2]
        whole = member.parameter.shape if shape is None else (*stacked, *shape)
        member.state[key] = member.value.new_zeros(whole)
    return member.matrices(member.state[key])


def match_rate(lr: float, rows: int, cols: int) -> float:
    """Return the rate at which an orthogonal update is as large as AdamW's usually
    is.

    (Liu et al., "Muon is scalable for LLM training", 2025.)

    Args:
        lr: Learning rate.
        rows: Rows of the matrix.
        cols: Columns of the matrix.
    """
    return 0.2 * lr * max(rows, cols) ** 0.5


Kind = Literal["quintic", "polar"]
Precision = Literal["same", "bfloat16"]

#: One iteration X <- a X + (b A + c A A) X with A = X X^T, again and again (Jordan,
#: "Muon", 2024); X <- a X + X (b A + c A A) with A = X^T X where that is smaller.
_QUINTIC = (3.4445, -4.7750, 2.0315)

#: Coefficients that change from one iteration to the next ("polar express", Amsel
#: et al., 2025), to the digits of Zhu et al., "LITE", 2026. All but the last are
#: damped, see below.
_POLAR = (
    (8.28721, -23.59589, 17.30039),
    (4.10706, -2.94785, 0.54484),
    (3.94869, -2.90890, 0.55182),
    (3.31842, -2.48849, 0.51005),
    (2.30065, -1.66890, 0.41881),
    (1.89130, -1.26800, 0.37680),
    (1.87500, -1.25000, 0.37500),
)
_POLAR_LAST = (1.875, -1.25, 0.375)
_DAMPING = 1.01

_Coefficients = tuple[float, float, float]


def msign(
    matrices: Tensor, steps: int, kind: Kind = "quintic", precision: Precision = "same"
) -> Tensor:
    """Return X Y^T for each of the matrices X diag(s) Y^T in [m, rows, cols].

    ``quintic`` comes near (singular values between about 0.7 and 1.2) in 5 steps,
    ``polar`` nearer in 6. What happens to one matrix does not depend on the others.

    Args:
        matrices: Matrices, [m, rows, cols].
        steps: Iterations.
        kind: Which polynomials: ``quintic`` or ``polar``.
        precision: Type of the products: ``same`` or ``bfloat16``.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(torch.bfloat16) if precision == "bfloat16" else matrices
    # The Frobenius norm bounds the largest singular value, which the iteration
    # needs at most 1; ``polar`` leaves another percent for what bfloat16 rounds
    # upwards.
    norms = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    x = x / (norms.clamp(min=1e-7) if kind == "quintic" else _DAMPING * norms + 1e-8)
    for a, b, c in islice(_coefficients(kind), steps):
        # The smaller of both sides: all products of the iteration are as small.
        gram = (
            torch.bmm(x.transpose(1, 2), x) if tall else torch.bmm(x, x.transpose(1, 2))
        )
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        left, right = (x, factor) if tall else (factor, x)
        x = torch.baddbmm(x, left, right, beta=a)
    return x.to(matrices.dtype)


def _coefficients(kind: Kind) -> chain[_Coefficients] | repeat[_Coefficients]:
    if kind == "quintic":
        return repeat(_QUINTIC)
    # The polynomial at x / 1.01: its terms are of degree 1, 3 and 5.
    damped = ((a / _DAMPING, b / _DAMPING**3, c / _DAMPING**5) for a, b, c in _POLAR)
    return chain(damped, repeat(_POLAR_LAST))
