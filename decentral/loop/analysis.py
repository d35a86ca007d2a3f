"""How mergeable the models of a run are, in depth: what `decentral analyze`
measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import comb, isfinite, isqrt
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decentral import rng
from decentral.errors import ConfigError
from decentral.gradients.base import Batch, rows_at_once
from decentral.loop.trained import TrainedModels
from decentral.metrics.curvature import curvature
from decentral.metrics.geometry import (
    Features,
    Noise,
    Plane,
    agreement,
    along,
    around,
    barrier,
    cosine,
    layer_spread,
    mean_cosine,
    noise_scale,
    positions,
    through,
)
from decentral.tasks.base import Samples
from decentral.topology.labels import NodeId, RowIndex

#: Told what is being measured, how many of all parts are done, and how many there
#: are.
Watch = Callable[[str, int, int], None]
Record = dict[str, Any]

#: Samples whose features are compared: memory grows with their square.
FEATURE_SAMPLES = 256
#: Batches, and samples of each, from which the noise of the gradient is estimated.
BATCHES, BATCH = 32, 16
#: Most samples of the Hessian, and numbers that it may keep of all models together:
#: it is applied forty times, which for a transformer takes longer than all the
#: rest.
_CURVED, _KEPT = 512, 1 << 24
#: A model is on a plane if less than this share of its way there leads away from
#: it.
_ON = 1e-3


@dataclass(frozen=True)
class Extent:
    """How much is looked at: pairs of nodes, points along each side of a plane,
    samples.
    """

    pairs: int = 8
    points: int = 25
    samples: int = 1024
    seed: int = 0


def sampled_pairs(models: int, count: int, seed: int) -> list[tuple[RowIndex, RowIndex]]:
    """Return at most ``count`` different pairs i < j, drawn without listing all
    pairs.

    Args:
        models: Number of models; pairs are of their places.
        count: Pairs, at most.
        seed: Seed of the draw.

    >>> sampled_pairs(3, 9, seed=0)
    [(0, 1), (0, 2), (1, 2)]
    """
    total = comb(models, 2)
    drawn = rng.permute(np.arange(min(count, total)), total, seed, "analyze/pairs")
    pairs: list[tuple[RowIndex, RowIndex]] = []
    for place in sorted(drawn.tolist()):
        # The pair of that number, if pairs are counted (0, 1), (0, 2), (1, 2), (0,
        # 3), ...: the inverse of the triangular numbers, in whole numbers.
        high = (1 + isqrt(1 + 8 * place)) // 2
        pairs.append((RowIndex(place - comb(high, 2)), RowIndex(high)))
    return sorted(pairs)


class Analysis:
    """Measures the models of a checkpoint, part by part."""

    def __init__(self, models: TrainedModels, extent: Extent, watch: Watch) -> None:
        """Choose pairs, nodes and samples; raises ConfigError for fewer than two
        models.
        """
        nodes = len(models.rows)
        if nodes < 2:
            raise ConfigError(
                "analyze compares models and the run has one; launch with nodes=2."
            )
        self.models, self.extent, self.watch = models, extent, watch
        self.setup, self.rows = models.setup, models.rows
        self.pairs = sampled_pairs(nodes, extent.pairs, extent.seed)
        count = np.arange(min(extent.pairs, nodes))
        chosen = rng.permute(count, nodes, extent.seed, "analyze/nodes")
        self.nodes = [RowIndex(place) for place in sorted(chosen.tolist())]
        self.train = self._some(self.setup.train, "train")
        self.test = self._some(models.evaluator.test, "test")
        self.done = 0

    def _some(self, samples: Samples, purpose: str) -> Samples:
        """Return a fixed sample of the samples, in their order."""
        count, seed = min(self.extent.samples, len(samples)), self.extent.seed
        drawn = rng.permute(np.arange(count), len(samples), seed, f"analyze/{purpose}")
        # Sorted: mapped data are read from front to back.
        return samples.subset(torch.from_numpy(np.sort(drawn)))

    @cached_property
    def snapshot(self) -> Any:
        """What metrics look at: all nodes and all test samples, the Hessians of a
        few nodes.
        """
        whole = self.models.evaluator.snapshot(complete=True)
        return replace(whole, evaluated=whole.alive[self.nodes])

    @cached_property
    def merged(self) -> Tensor:
        """The row [P] that the run's own merge makes of all models."""
        row: Tensor = self.snapshot.merged_row
        return row

    def record(self) -> Record:
        """Measure everything and return it in the types of JSON."""
        places = positions()
        found = {
            "step": self.models.step,
            "nodes": len(self.rows),
            "extent": {**asdict(self.extent), "pairs": len(self.pairs)},
            "scores": self._scores(),
            "lines": {
                "positions": places.tolist(),
                "nodes": [self._line(places, *pair) for pair in self.pairs],
                "merged": [self._line(places, node, None) for node in self.nodes],
            },
            "planes": self._planes(),
            "curvature": self._curvature(),
            "layers": self._layers(),
            "updates": self._updates(),
            "noise": self._noise(),
        }
        return _finite(found)

    # --- progress -----------------------------------------------------------------

    @property
    def parts(self) -> int:
        """How often ``watch`` is told that a part begins."""
        compared = len(self.pairs) + len(self.nodes)
        return 1 + 2 * compared + 2 * self.extent.points + 2 + len(self.nodes) + 1

    def _begin(self, what: str) -> None:
        self.watch(what, self.done, self.parts)
        self.done += 1

    # --- losses -------------------------------------------------------------------

    def _scores(self) -> Record:
        """Return how the local models and the merged one do on all test samples."""
        self._begin("scores of all models")
        found = self.models.judge(self.merged)
        return {
            one.of_merge: {
                "local_mean": one.local(found), "local_best": one.local(found, best=True),
                "merged": found[one.key], "record": asdict(one),
            }
            for one in self.models.judges[1].merged(found)
        }  # fmt: skip

    def _line(self, places: Tensor, node: RowIndex, other: RowIndex | None) -> Record:
        """Return losses and accuracies from a node to another one, or to the merged
        model.
        """
        self._begin("lines between models")
        ends = self.rows[node], self.merged if other is None else self.rows[other]
        loss = self.models.scores(along(*ends, places), self.train).loss.cpu()
        test = self.models.scores(along(*ends, places), self.test)
        named = [self.models.live[node]] + (
            [] if other is None else [self.models.live[other]]
        )
        found: Record = {
            "nodes": named,
            "train_loss": loss.tolist(),
            "test_loss": test.loss.tolist(),
        }
        # How far it rises above the line between both ends, and how far it sinks
        # below.
        found["barrier"], found["depth"] = barrier(places, loss), barrier(places, -loss)
        if test.accuracy is not None:
            found["accuracy"] = test.accuracy.tolist()
            found["accuracy_barrier"] = barrier(places, -test.accuracy.cpu())
        return found

    def _planes(self) -> Record:
        """Return training losses on two planes: through three models, and around
        the merged one.

        Of two models the third is the one they began with.
        """
        chosen, points = self._three(), self.extent.points
        rows = [row for _, row in chosen]
        plane = through(rows[0], rows[1], rows[2], points)
        marks = [*chosen, ("merged", self.merged)]
        near = around(self.merged, self.setup.layout, self.extent.seed, points)
        return {
            "through": None if plane is None else self._plane(plane, marks),
            "around": self._plane(near, [("merged", self.merged)]),
        }

    def _three(self) -> list[tuple[str, Tensor]]:
        count = len(self.rows)
        places = rng.permute(
            np.arange(min(3, count)), count, self.extent.seed, "analyze/plane"
        )
        chosen = [
            (f"node {self.models.live[i]}", self.rows[i]) for i in sorted(places.tolist())
        ]
        start = self.setup.initial_rows([NodeId(0)])[0].to(self.rows)
        return [*chosen, ("start", start)][:3]

    def _plane(self, plane: Plane, marks: Sequence[tuple[str, Tensor]]) -> Record:
        losses: list[list[float]] = []
        for line in plane.lines():
            self._begin("losses on planes")
            losses.append(self.models.scores(line, self.train).loss.tolist())
        named: list[Record] = []
        for name, row in marks:
            place = plane.coordinates(row)
            away = (row - plane.at(*place)).norm() / (
                row - plane.origin
            ).norm().clamp_min(1e-30)
            named.append({"name": name, "at": place, "on": away.item() < _ON})
        return {
            "u": plane.u.tolist(),
            "v": plane.v.tolist(),
            "loss": losses,
            "marks": named,
        }

    # --- curvature and noise ------------------------------------------------------

    def _curvature(self) -> Record:
        """Return top eigenvalue and trace of the Hessian of a few local models and
        of the merged.

        On as many training samples as time and memory allow for a second backward
        pass.
        """
        self._begin("curvature")
        kept = max(1, self.setup.activation_memory) * len(self.nodes)
        samples = max(1, min(_CURVED, len(self.train), _KEPT // kept))
        try:
            found = curvature(self.snapshot, samples=samples)
        except ConfigError as error:  # the rest of the record needs no second derivative
            return {"samples": 0, "reason": str(error)}
        return {
            "samples": samples,
            **{key.removeprefix("curvature/"): value for key, value in found.items()},
        }

    def _noise(self) -> Record:
        """Return the noise scale of the gradient over all training data, at several
        models.
        """
        self._begin("gradient noise")
        merged = noise_scale(self._gradients(self.merged), BATCH)
        local: list[Noise] = []
        for node in self.nodes:
            self._begin("gradient noise")
            local.append(noise_scale(self._gradients(self.rows[node]), BATCH))
        # A ratio of means, which one model without signal cannot upset.
        mean = Noise(
            fmean(one.signal for one in local), fmean(one.noise for one in local)
        )
        return {
            "batch": BATCH,
            "batches": BATCHES,
            "merged": _noise(merged),
            "local": _noise(mean),
        }

    def _gradients(self, row: Tensor) -> Iterator[Tensor]:
        """Yield the gradients [trainable] of a row on batches drawn with
        replacement.
        """
        calibrated, integers = self._calibrate(row), self.models.integers
        at_once = min(
            BATCHES,
            rows_at_once(self.setup.activation_memory * BATCH, row.numel(), row.device),
        )
        places = np.arange(BATCHES)[:, None], np.arange(BATCH)
        drawn = rng.integers(
            len(self.setup.train), self.extent.seed, "analyze/noise", *places
        )
        keys = rng.bits(self.extent.seed, "analyze/keys", *places).view(np.int64) >> 1
        for some in np.array_split(np.arange(BATCHES), -(-BATCHES // at_once)):
            batch = Batch(
                *self.setup.train.take(torch.from_numpy(drawn[some])),
                torch.from_numpy(keys[some]).to(row.device),
            )
            rows = calibrated.expand(len(some), -1).clone()
            whole = {
                k: v.expand(len(some), *v.shape[1:]).clone() for k, v in integers.items()
            }
            out = torch.zeros_like(rows)
            self.models.block.pipeline.compute(rows, whole, batch, out)
            yield from self.setup.layout.trainable_view(out)

    # --- layers and updates -------------------------------------------------------

    def _layers(self) -> list[Record]:
        """Return distance from the mean and agreement of features, layer by layer."""
        inputs = self.test.take(torch.arange(min(FEATURE_SAMPLES, len(self.test))))[0]
        look = Features(self.setup.model, self.setup.layout, inputs)
        # Every row with statistics of its own: with those of another, features would
        # differ by their scale alone.
        seen = look(self._calibrate(self.merged))
        between: dict[str, list[float]] = {}
        towards: dict[str, list[float]] = {}
        for one, other in self.pairs:
            self._begin("features of layers")
            ours, theirs = (look(self._calibrate(self.rows[i])) for i in (one, other))
            _add(between, agreement(ours, theirs))
        for node in self.nodes:
            self._begin("features of layers")
            _add(towards, agreement(look(self._calibrate(self.rows[node])), seen))
        return [
            {
                **asdict(layer),
                "cka_nodes": _mean(between.get(layer.name)),
                "cka_merged": _mean(towards.get(layer.name)),
            }
            for layer in layer_spread(self.rows, self.merged, self.setup.layout)
        ]

    def _calibrate(self, row: Tensor) -> Tensor:
        return self.models.evaluator.calibrate_row(row, self.models.integers)

    def _updates(self) -> Record:
        """Return the cosines of what nodes have learnt, from their common start and
        from the mean.

        Over all pairs the mean, over the sampled pairs the least and the greatest.
        """
        self._begin("updates")
        wide = self.setup.layout.trainable
        origins = {"from_mean": self.merged}
        if self.setup.config.init == "shared":
            origins["from_start"] = self.setup.initial_rows([NodeId(0)])[0].to(self.rows)
        rows = self.rows[:, :wide]
        found: Record = {}
        for name, origin in origins.items():
            away = [cosine(rows[i], rows[j], origin[:wide]) for i, j in self.pairs]
            known = [value for value in away if value is not None]
            found[name] = {
                "mean": mean_cosine(rows, origin[:wide]),
                "least": min(known, default=None), "greatest": max(known, default=None),
            }  # fmt: skip
        return found


def _noise(noise: Noise) -> Record:
    return {**asdict(noise), "scale": noise.scale}


def _add(found: dict[str, list[float]], values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None:
            found.setdefault(name, []).append(value)


def _mean(values: Iterable[float] | None) -> float | None:
    known = list(values or ())
    return fmean(known) if known else None


def _finite(value: Any) -> Any:
    """Return what a record holds with None for every number that is none: JSON
    knows no NaN.
    """
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return None if isinstance(value, float) and not isfinite(value) else value
