"""Claims about language models at a size at which they can show: ``--size long``.

A GPT of a quarter of a million parameters reads the source of Python's standard
library, and is tested on files of it that it has not seen. Both sides of a comparison
take their best peak rate of a grid in steps of the root of 2, over two seeds, which is
extended until the best lies inside; then they are compared over all seeds. All runs
share one folder, so that a try goes on run by run where another one stopped.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.errors import ConfigError
from decentral.plugins import Plugin
from decentral.registry import Count, Location, find
from decentral.signature import Setting, signature_settings
from decentral.traits import ClaimTraits, traits_of

#: The seeds over which rates are tuned, and by which the grid is at most extended.
_TUNING, _WIDEST = (0, 1), 6
#: What is not trained on: at least so many files and bytes, one file in so many.
_FILES, _BYTES, _EVERY = 100, 200_000, 12
_CONTEXT, _BATCH = 64, 32
_ADAMW = {"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}
_MUON = {"name": "muon", "newton_schulz": "polar", "steps": 6}
_LITE = {
    "name": "muon_lite", "betas": [0.9, 0.95], "chi": {"embedding": 1, "norm": 1, "head": 1}
}  # fmt: skip
_ONES = dict.fromkeys(
    ("embedding", "qk", "vo", "qkv", "ffn", "experts", "router", "norm", "head"), 1
)
#: Peak rates of the control, which is the same beside every comparison.
_CONTROL = {"AdamW": (_ADAMW, 2e-3), "Muon": (_MUON, 8e-3)}
#: What is said to hold with experts, too.
WITH_EXPERTS = ("gradpower", "lite", "late_switch_batch")


@dataclass(frozen=True)
class Arm:
    """Two sides of a comparison by name: settings, and the rate where the search
    begins.

    ``off`` are the method's settings with the method taken away, which must give the
    base's loss within ``slack``; ``effect`` is what the paper reports, in nats.
    """

    base: str
    method: str
    sides: Mapping[str, Mapping[str, Any]]
    start: Mapping[str, float]
    off: Mapping[str, Any]
    effect: float | None = None
    slack: float = 0.0

    @property
    def gain(self) -> str:
        """The name of the figure that decides."""
        return f"{self.base} minus {self.method}"


def _switch(small: int, large: int) -> dict[str, Any]:
    return {"name": "late_switch", "from": small, "to": large, "at": "75%"}


def _optimizers(
    base: str, method: str, settings: Sequence[Any], start: tuple[float, float], **more: Any
) -> Arm:  # fmt: skip
    plain, changed, off = ({"optimizer": one} for one in settings)
    return Arm(
        base, method, {base: plain, method: changed},
        {base: start[0], method: start[1]}, off, **more,
    )  # fmt: skip


ARMS = {
    "gradpower": _optimizers(
        "AdamW", "AdamPower",
        (_ADAMW, {**_ADAMW, "grad_power": 1.2}, {**_ADAMW, "grad_power": 1.0}),
        (2e-3, 2e-3), effect=0.01,
    ),
    "lite": _optimizers(
        "Muon", "LITE",
        (_MUON, _LITE, {**_LITE, "chi": _ONES, "beta1": 0.0, "beta2": 0.0}),
        (8e-3, 8e-3), effect=0.03, slack=5e-3,
    ),
    "blockwise": _optimizers(
        "AdamW", "blockwise",
        (_ADAMW, {**_ADAMW, "blockwise": True}, {**_ADAMW, "blockwise": _ONES}),
        (2e-3, 5e-4), effect=0.04,
    ),
    "late_switch_batch": Arm(
        "large batches", "late switching",
        {
            "large batches": {"optimizer": _ADAMW, "batch": 64},
            "late switching": {"optimizer": _ADAMW, "batch": _switch(8, 64)},
        },
        {"large batches": 2e-3, "late switching": 1e-3},
        {"optimizer": _ADAMW, "batch": _switch(64, 64)},
    ),
}  # fmt: skip


def compare(
    lab: Lab,
    seed: int,
    *,
    arm: Literal["gradpower", "lite", "blockwise", "late_switch_batch"],
    tokens: Count = 2_000_000,
    width: Count = 96,
    layers: Count = 2,
    model: Literal["gpt", "qwen2_moe"] = "gpt",
    decay: Literal["cosine", "wsd", "constant"] = "cosine",
    path: Location | None = None,
) -> Findings:
    """Compare two ways to train a small language model, each at its best rate.

    Losses are those of the test text at the end, in nats per byte; runs under WSD are
    compared after their decay only.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        arm: What is compared.
        tokens: Tokens that a run trains on.
        width: Width of the model.
        layers: Layers of the model.
        model: Dense, or with experts: four a layer, two of which a token goes to
            (extra ``[lm]``).
        decay: Schedule of the learning rate.
        path: Folder of text; none: Python's standard library.
    """
    chosen = ARMS[arm]
    train, test = write_text(
        lab.folder / "text", Path(path or sysconfig.get_path("stdlib"))
    )
    shape: dict[str, Any] = {
        "task": {"name": "text", "path": str(train), "test": str(test), "tokens": "byte",
                 "context": _CONTEXT},
        "model": {"name": model, "layers": layers, "width": width, "heads": 4},
    }  # fmt: skip
    study = Study(lab, shape, tokens, decay)
    best = {
        side: study.tune(side, settings, chosen.start[side])
        for side, settings in chosen.sides.items()
    }
    runs = {
        side: study.run(side, settings, best[side][0], seed)
        for side, settings in chosen.sides.items()
    }
    off = study.run(f"{chosen.method} off", chosen.off, best[chosen.base][0], seed)
    control = {
        name: study.run(f"control {name}", {"optimizer": optimizer}, lr, seed)
        for name, (optimizer, lr) in _CONTROL.items()
    }
    loss = {name: end_loss(run) for name, run in {**runs, **control}.items()}
    figures = {
        chosen.gain: end_loss(runs[chosen.base]) - end_loss(runs[chosen.method]),
        "sides whose best rate is inside": float(all(inside for _, inside in best.values())),
        "with the method off": end_loss(off) - end_loss(runs[chosen.base]),
        "AdamW minus Muon, control": end_loss(control["AdamW"]) - end_loss(control["Muon"]),
    } | {f"best rate, {side}": lr for side, (lr, _) in best.items()} | {
        f"loss, {name}": value for name, value in loss.items()
    }  # fmt: skip
    curves = [series(run, side, "loss/merged") for side, run in runs.items()]
    return Findings(
        figures,
        [Panel("Test loss", "step", "nats per byte", curves), study.panel(chosen)],
    )


class Study:
    """Runs of one size on one text, made or found in a lab."""

    def __init__(self, lab: Lab, shape: dict[str, Any], tokens: int, decay: str) -> None:
        """Study runs of ``tokens`` tokens under a schedule of the rate."""
        self.lab, self.shape, self.decay = lab, shape, decay
        self.samples = max(_BATCH, tokens // _CONTEXT)
        self.tuned: dict[str, dict[float, float]] = {}

    def run(self, side: str, settings: Mapping[str, Any], lr: float, seed: int) -> Any:
        """Return a run of one side.

        Args:
            side: Its name.
            settings: What is its own.
            lr: Peak rate.
            seed: Seed of the run.
        """
        rate: dict[str, Any] = {"name": self.decay, "lr": lr, "warmup": "10%"}
        if self.decay != "constant":
            rate["floor"] = 0.1
        own: dict[str, Any] = {"batch": _BATCH, **settings}
        return self.lab.run(
            f"{side} {lr:.3g} seed {seed}", **{**self.shape, **own}, nodes=1, algorithm="local",
            clip=1.0, metrics=("loss",), seed=seed, learning_rate=rate, eval_samples=256,
            data=f"{self.samples} samples", eval_every="auto",
        )  # fmt: skip

    def tune(
        self, side: str, settings: Mapping[str, Any], start: float
    ) -> tuple[float, bool]:
        """Return the best peak rate of a side over the seeds for tuning, and whether it
        lies inside the grid.

        Args:
            side: Its name.
            settings: What is its own.
            start: Rate in the middle of the first three.
        """
        found: dict[int, float] = {}

        def loss(step: int) -> float:
            if step not in found:
                lr = start * sqrt(2) ** step
                runs = [self.run(side, settings, lr, seed) for seed in _TUNING]
                found[step] = sum(map(end_loss, runs)) / len(runs)
            return found[step]

        best = min((-1, 0, 1), key=loss)
        while best in (min(found), max(found)) and max(found) - min(found) < _WIDEST:
            loss(best - 1 if best == min(found) else best + 1)
            best = min(found, key=loss)
        self.tuned[side] = {start * sqrt(2) ** k: found[k] for k in sorted(found)}
        return start * sqrt(2) ** best, min(found) < best < max(found)

    def panel(self, arm: Arm) -> Panel:
        """Draw the loss over the rates that were tried."""
        curves = [
            Curve(side, list(self.tuned[side]), list(self.tuned[side].values()))
            for side in arm.sides
        ]
        return Panel("Over two seeds", "peak rate", "test loss", curves, "x")


def end_loss(run: Any) -> float:
    """Return the loss of a run on the whole test text, at its end."""
    return float(run.summary["final"]["loss/merged"])


def write_text(folder: Path, source: Path) -> tuple[Path, Path]:
    """Write the Python files below a folder, tests apart, as a text for training and
    one of other files for the test; return both.

    Args:
        folder: Where they are kept, for further runs.
        source: The folder.
    """
    train, test = folder / "train.txt", folder / "test.txt"
    if test.exists():
        return train, test
    files = [
        file
        for file in sorted(source.rglob("*.py"))
        if not {"test", "tests", "idle_test", "site-packages"}
        & {*file.relative_to(source).parts}
    ]

    def chance(file: Path) -> int:
        name = str(file.relative_to(source)).encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "big")

    files.sort(key=chance)
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    least = min(_FILES, max(1, len(files) // _EVERY))
    held, size = 0, 0
    while held < len(files) and (
        held < least or (size < _BYTES and held < len(files) // 2)
    ):
        size, held = size + len(texts[held]), held + 1
    if not 0 < held < len(files):
        raise ConfigError(
            f"path = {str(source)!r}: {len(files)} Python files are no text for training and "
            "one for the test; name a folder with more, or leave path out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    train.write_text("\n".join(texts[held:]), encoding="utf-8")
    # Last: where it is, the other one is whole.
    test.write_text("\n".join(texts[:held]), encoding="utf-8")
    return train, test


def long_claim(name: str) -> Plugin:
    """Return a claim as it is tried at the size ``long``."""
    if name not in ARMS:
        raise ConfigError(
            f"claim {name.replace('_', '-')!r} has no size long; these have: "
            f"{', '.join(one.replace('_', '-') for one in ARMS)}."
        )
    small, arm = traits_of(find("claim", name), ClaimTraits), ARMS[name]
    traits = ClaimTraits(
        paper=small.paper,
        says=small.says,
        expect=(
            Expectation(
                arm.gain, "each at its best rate the method ends lower, in nats per byte",
                low=0.0, over="interval", effect=arm.effect,
            ),
            Expectation(
                "sides whose best rate is inside", "no best rate lies at the edge of its grid",
                low=1.0, role="condition",
            ),
            Expectation(
                "with the method off", "without the method both sides are one", low=-arm.slack,
                high=arm.slack, role="condition",
            ),
            Expectation(
                "AdamW minus Muon, control", "a difference that is known can be seen", low=0.0,
                over="interval", role="condition",
            ),
        ),
    )  # fmt: skip
    settings = dict(signature_settings(compare))
    settings["arm"] = Setting(settings["arm"].annotation, name)
    return Plugin("claim", name, compare, settings, traits)
