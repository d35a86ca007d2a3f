"""Tasks: data, model, loss and evaluation.

A task plug-in is a function that takes, by name, any of ``nodes`` and ``seed`` from
the run and returns a ``Task``; its keyword-only parameters are settings. The trait
``defaults`` holds settings of the run that suit the task, below everything the user
says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Lt
from numpy.typing import NDArray
from torch import Tensor, nn

from decentral.errors import ConfigError
from decentral.pytree import first_leaf
from decentral.tasks.arrays import Keys, values_of
from decentral.tasks.labels import (
    IGNORED,
    bars_svg,
    ignored_target,
    leaves_out,
    occurring,
    places,
    takes_classes,
    unseen_labels,
)
from decentral.tasks.samples import Samples as Samples
from decentral.tasks.samples import (
    is_ignored,
    is_whole,
    labels_of,
    number_classes,
    numbering,
    owners_of,
    read_splits,
    split_held_out,
)

#: A share of the training samples that is kept from training.
HeldOut = Annotated[float, Ge(0), Lt(1)]

#: The names of the splits.
SPLITS = ("train", "val", "test")
#: What a task holds of a split: samples, or whatever they can be read from.
Data = Any


@dataclass(frozen=True)
class Continued:
    """What a language model goes on with, in tokens, and how tokens are written."""

    prompts: tuple[tuple[int, ...], ...]
    write: Callable[[Sequence[int]], str]


@dataclass(repr=False)
class Task:
    """What is learned: a model, a loss that averages over a batch, and train, val
    and test samples.

    ``train``, ``val`` and ``test`` are data as people hold them
    (``decentral.tasks.data``): a pair (inputs, targets) of tensors or arrays, a
    data set or a loader of torch, a frame, a data set of Hugging Face, a list of
    samples. What is no tensor is read once; of a stream at most ``stream`` samples.
    In tables and mappings ``target`` is the name of what is learned (by default
    labels, label, targets, target or y). Without ``test`` a fifth of ``train`` is
    held out, drawn by ``seed``, of every class alike.

    ``model`` is a function that builds the module (None: the run's ``model:``
    setting, from ``outputs``). It is called with the inputs: several as arguments,
    by name where they have names. ``output`` picks the prediction from what it
    returns: a key, a place, or a function; unless given it is the tensor itself,
    else what is called ``logits``, else the only floating tensor.

    ``accuracy`` maps (outputs, targets) to one number per sample; it is arg-max
    agreement for integer targets and absent for others. ``scores`` are further
    functions like it, by name, for the metric ``scores``. Targets that are
    ``ignore_index`` are left out of all of these, as the loss leaves them out
    (None: what losses of torch say, and -100 of others that leave it out).
    ``token_bytes`` is how many bytes of text a target stands for, where targets are
    tokens; ``continued`` is what the merged model goes on with in the report.

    ``classes`` names the labels, by default those that occur; where the model is
    built from ``outputs``, targets are numbered in that order. ``labels`` [m] are
    what splits divide by, where that is not the target (the document of a
    sequence). ``owners`` [m], or the name of a column, assigns every training
    sample to a node; so does a list of data sets, or a mapping from nodes to their
    data, as ``train``. ``outputs`` is how many a model needs: the classes, or the
    size of a target, unless given. ``takes`` is what a model's trait ``inputs``
    must say: ``numbers`` for floating inputs and ``tokens`` for integers, unless
    given. ``notes`` are lines that a user should read before the run. ``objective``
    is the mean loss of the test samples in closed form, where there is one: from
    the parameters by name, [n, ...], of n models, their n losses; it is for tasks
    without an accuracy.

    >>> x, y = torch.randn(50, 4), torch.randint(0, 3, (50,))
    >>> task = Task(
    ...     model=lambda: nn.Linear(4, 3), loss=nn.functional.cross_entropy, train=(x, y)
    ... )
    >>> len(task.train), len(task.test), task.classes
    (40, 10, ('0', '1', '2'))
    """

    loss: Callable[[Any, Any], Tensor]
    train: Data
    test: Data = None
    val: Data = None
    model: Callable[[], nn.Module] | nn.Module | None = None
    classes: tuple[str, ...] | None = None
    accuracy: Callable[[Any, Any], Tensor] | None = None
    scores: Mapping[str, Callable[[Any, Any], Tensor]] = field(
        default_factory=dict[str, Any]
    )
    labels: Any = None
    owners: Any = None
    outputs: int = 0
    takes: str = ""
    best_loss: float | None = None
    objective: Callable[[Mapping[str, Tensor]], Tensor] | None = None
    notes: tuple[str, ...] = ()
    target: str | Sequence[str] = ""
    output: str | int | Callable[[Any], Any] | None = None
    ignore_index: int | None = None
    stream: int = 1_000_000
    seed: int = 0
    token_bytes: float | None = None
    continued: Continued | None = None
    #: The label of every class, where targets were numbered anew.
    numbered: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Read the data, and fill in what follows from it."""
        if self.ignore_index is None:
            self.ignore_index = ignored_target(self.loss)
        self._read()
        if self.ignore_index is None and any(
            is_whole(one.targets) and leaves_out(self.loss, one.targets, IGNORED)
            for one in self._samples().values()
        ):
            self.ignore_index = IGNORED
        self._leave_out()
        # After samples without a target are gone: a fifth of those that count is
        # held out.
        if self.test is None:
            self._hold_out()
        targets = self.splits[0].targets
        if is_whole(targets):
            self.accuracy = self.accuracy or Agreement(
                self.ignore_index, takes_classes(self.loss)
            )
        if self.accuracy and self.objective:
            raise ConfigError(
                "task: an objective in closed form says nothing of accuracy; leave one of them out."
            )
        if is_whole(targets) and targets.dim() == 1:
            self._number()
        elif self.labels is not None:
            self.labels, self.classes = labels_of(self.labels, self.classes, len(targets))
        # Only where classes have not said it: a model of numbers has one output for
        # each.
        self.outputs = self.outputs or first_leaf(targets)[0].numel()

    def _read(self) -> None:
        given = {k: v for k in SPLITS if (v := getattr(self, k)) is not None}
        column = self.owners if isinstance(self.owners, str) else ""
        target = self.target if isinstance(self.target, str) else tuple(self.target)
        found = read_splits(given, Keys(target, column, self.stream), self.classes)
        self._put(found.samples)
        self.classes, self.notes = found.classes, (*self.notes, *found.notes)
        self.owners, note = owners_of(self.owners, found.owners, len(self.train))
        self.notes += (note,) if note else ()

    def _put(self, samples: Mapping[str, Samples]) -> None:
        for split, one in samples.items():
            setattr(self, split, one)

    def _samples(self) -> dict[str, Samples]:
        return {k: v for k in SPLITS if (v := getattr(self, k)) is not None}

    def _leave_out(self) -> None:
        """Leave out samples whose targets are all ignored."""
        for split, samples in self._samples().items():
            out = is_ignored(samples.targets, self.ignore_index)
            if out is None:
                continue
            kept = torch.nonzero(~out).flatten()
            if not len(kept):
                raise ConfigError(
                    f"task: every target of {split} is {self.ignore_index}: ignored."
                )
            self._keep(split, kept)
            count = len(out) - len(kept)
            self.notes += (
                f"{split}: {count:,} samples without a target that counts are left out.",
            )

    def _keep(self, split: str, kept: Tensor) -> None:
        """Keep some samples of a split, and what is said of them."""
        size = len(getattr(self, split))
        self._put({split: getattr(self, split).subset(kept)})
        for name in ("labels", "owners") if split == "train" else ():
            whole = getattr(self, name)
            if whole is not None and len(whole) == size:
                setattr(self, name, values_of(whole, f"task: {name}")[kept])

    def _hold_out(self) -> None:
        """Take a fifth of the training samples for the test, of every class and
        every owner.
        """
        train: Samples = self.train
        by_class = is_whole(train.targets) and train.targets.dim() == 1
        groups = [train.targets.long()] if by_class else []
        groups += [] if self.owners is None else [self.owners]
        kept, out = split_held_out(train, groups, self.seed)
        self.test = train.subset(out)
        self._keep("train", kept)
        how = " of every class" * by_class
        self.notes += (
            f"no test is given: {len(out):,} of {len(kept) + len(out):,} training samples are held "
            f"out, drawn by seed {self.seed}{how}.",
        )

    def _number(self) -> None:
        """Number the labels from 0, unless they may be what a model of the user's
        counts.
        """
        known = occurring([one.targets for one in self._samples().values()])
        self._judge_unseen(known)
        # Only 0, 1, 2, ... without a gap are what a model counts by itself.
        counted = bool((known == torch.arange(len(known))).all())
        theirs = self.model is not None or bool(self.outputs)
        needed = not theirs or (bool(known[0] < 0) and takes_classes(self.loss))
        names = self.classes
        if names is None and not counted and needed:
            made, self.numbered = number_classes(self._samples()), known
            self._put(made)
            self.notes += (numbering(known),)
        targets, own = self.splits[0].targets, self.labels
        named = len(names or ()) if own is None else 0
        if own is None and names is None:
            own = targets if self.numbered is not None else places(targets, known)
            names = tuple(map(str, known.tolist()))
        self.labels, self.classes = labels_of(
            targets if own is None else own, names, len(targets)
        )
        last = int(known[-1]) if self.numbered is None else len(known) - 1
        self.outputs = self.outputs or max(last + 1, named)

    def _judge_unseen(self, known: Tensor) -> None:
        """Say which labels no training sample has; refuse negative ones, which hide
        labels.
        """
        unseen = unseen_labels(known, self.splits[0].targets)
        if not unseen or not takes_classes(self.loss):
            return
        if unseen[0] < 0:
            raise ConfigError(
                f"task: a test or val sample has the label {unseen[0]}, which no training sample "
                "has; it often hides a label: leave those samples out, or test on others."
            )
        names = dict(enumerate(self.classes or ()))
        shown = [str(names.get(label, label)) for label in unseen[:3]]
        listed = ", ".join(shown) + ", ..." * (len(unseen) > 3)
        self.notes += (
            f"no training sample has the label {listed}, which test or val hold.",
        )

    def as_labelled(self) -> Task:
        """Return the task with the labels as they were given, for a model that
        counts them itself.

        Negative labels, which no model can count, stay numbered.
        """
        if self.numbered is None or int(self.numbered[0]) < 0:
            return self
        known, made = self.numbered, copy.copy(self)
        # The test and validation samples were numbered with the others, and go back
        # too.
        made._put(
            {
                k: replace(one, targets=known[one.targets])
                for k, one in self._samples().items()
            }
        )
        made.notes = tuple(note for note in self.notes if note != numbering(known))
        made.numbered, made.outputs = None, int(known[-1]) + 1
        return made

    def __repr__(self) -> str:
        """Say how much data there is, and of what form."""
        sizes = ", ".join(f"{len(one):,} {k}" for k, one in self._samples().items())
        return f"<Task of {sizes} samples: inputs {self.input_shape}, {self.outputs} outputs>"

    def _repr_html_(self) -> str:
        targets = self.splits[0].targets
        labels = targets if self.labels is None else self.labels
        drawn = bars_svg(labels, self.classes) if isinstance(labels, Tensor) else ""
        notes = "".join(f"<br>{escape(note)}" for note in self.notes)
        return f"<div>{escape(repr(self))}{notes}{drawn}</div>"

    @property
    def splits(self) -> tuple[Samples, Samples | None, Samples]:
        """The train, val and test samples."""
        assert isinstance(self.train, Samples)
        assert isinstance(self.test, Samples)
        assert self.val is None or isinstance(self.val, Samples)
        return self.train, self.val, self.test

    def ignores(self, targets: Any) -> bool:
        """Tell whether some, but not all, targets of a sample are left out."""
        several = (
            self.ignore_index is not None and is_whole(targets) and targets.dim() > 1
        )
        return several and bool((targets == self.ignore_index).any())

    def restore_ignored(self, changed: Tensor, targets: Tensor) -> Tensor:
        """Return changed targets, those that are left out as they were."""
        if self.ignore_index is None or targets.is_floating_point():
            return changed
        return torch.where(targets == self.ignore_index, targets, changed)

    def count_targets(self, targets: Tensor) -> Tensor:
        """Return how many targets of every sample count, float64 [B]."""
        return (targets != self.ignore_index).flatten(1).sum(1).double()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input as a model sees it."""
        return tuple(first_leaf(self.splits[0].first).shape[1:])

    @property
    def gives(self) -> str:
        """What a model sees: floating ``numbers``, whole ``tokens``, or
        ``several inputs``.
        """
        first = self.splits[0].first
        if not isinstance(first, Tensor):
            return "several inputs"
        return "tokens" if is_whole(first) else "numbers"

    @property
    def nodes(self) -> int | None:
        """How many nodes the owners of the samples are, None without owners."""
        return None if self.owners is None else int(self.owners.max()) + 1


@dataclass(frozen=True)
class Agreement:
    """Accuracy by default: 1 where the largest output is the target's class, a
    sequence's mean.

    Targets that are ``ignored`` do not count. Classes are the last dimension of the
    outputs, or, as torch's own losses have it (``second``), that after the batch.
    """

    ignored: int | None = None
    second: bool = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one number for every sample, [B]."""
        last = outputs.shape[:-1] == targets.shape and not (
            self.second and outputs.dim() > 2
        )
        # float64, since float32 counts to 2^24 only when many samples are added up.
        right = (outputs.argmax(-1 if last else 1) == targets).to(torch.float64)
        if right.dim() == 1:
            return right
        if self.ignored is None:
            return right.flatten(1).mean(1)
        counts = (targets != self.ignored).to(torch.float64)
        return (right * counts).flatten(1).sum(1) / counts.flatten(1).sum(1)


def holdout(samples: Samples, share: float) -> tuple[Samples, Samples | None]:
    """Split off the last ``share`` of the samples; None when the share is 0."""
    # From the end and not drawn: what is kept stays one span, which can be mapped.
    kept = len(samples) - round(share * len(samples))
    if kept == len(samples):
        return samples, None
    return samples.between(0, kept), samples.between(kept, len(samples))


def standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values with mean 0 and variance 1."""
    return (values - values.mean()) / values.std()
