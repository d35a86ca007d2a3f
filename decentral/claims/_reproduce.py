"""Running claims, seed by seed, and judging what they gave."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from decentral.claims import Expectation, Findings, verdict
from decentral.claims._lab import Lab
from decentral.errors import ConfigError, Interrupted, RunError
from decentral.registry import Bound, bind, find
from decentral.run.environment import environment
from decentral.run.folder import RunFolder, explained

#: What a claim that could not be finished gets instead of a verdict.
BROKEN = "could not be run"

Record = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A claim to be tried: with which settings, over which seeds, in which folder."""

    rule: Bound
    seeds: tuple[int, ...]
    folder: Path
    say: Callable[[str], None]
    device: str = "auto"

    @property
    def traits(self) -> Mapping[str, Any]:
        """What the claim wrote down beforehand."""
        return self.rule.plugin.traits

    def _prepare(self) -> None:
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def _key(self) -> str:
        """What the findings of a seed depend on, beside the seed."""
        code = inspect.getsource(sys.modules[self.rule.plugin.target.__module__])
        said = json.dumps([self.rule.spec(), code, self.device], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def kept(self, seed: int) -> Record | None:
        """Return what one seed gave, as found in the folder, or None."""
        file = self._file(seed)
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        return record if record and record["key"] == self._key else None

    def _file(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}.json"

    def findings(self, seed: int) -> Record:
        """Return what one seed gives, as found in the folder or tried now."""
        if found := self.kept(seed):
            return found
        self._prepare()
        began = time.perf_counter()
        lab = Lab(self.folder, lambda text: self.say(f"seed {seed}: {text}"), self.device)
        found = self.rule(lab, seed)
        if not isinstance(found, Findings):
            raise ConfigError(
                f"claim {self.rule.name!r} returned {type(found).__name__}, not Findings."
            )
        seconds = time.perf_counter() - began + lab.spared_s
        record = {"key": self._key, "seconds": seconds, **asdict(found)}
        RunFolder(self.folder).write_json(self._file(seed).name, record)
        return record

    def outcome(self, findings: Callable[[int], Record] | None = None) -> Record:
        """Try the claim over all seeds and judge it; what goes wrong becomes part of the record.

        ``findings`` returns what a seed gives, where somebody else tries it.
        """
        self._prepare()
        try:
            judged = self._judged([(findings or self.findings)(seed) for seed in self.seeds])
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted(
                "interrupted; what is done is kept, and the same command goes on from there."
            ) from error
        except (ConfigError, RunError) as error:
            judged = {"verdict": BROKEN, "error": str(error)}
        record = {**self._described(), **judged}
        RunFolder(self.folder).write_json("outcome.json", record)
        return record

    def _described(self) -> Record:
        paragraph = self.rule.plugin.help.partition("\n\n")[0]
        found = environment(self.device, threads=0)
        return {
            "claim": self.rule.name,
            "title": " ".join(paragraph.replace("``", "").split()),
            "says": self.traits["says"],
            "paper": self.traits["paper"],
            "settings": self.rule.spec(),
            "seeds": list(self.seeds),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: found["versions"][name] for name in ("decentral", "torch")},
        }

    def _judged(self, per_seed: Sequence[Record]) -> Record:
        figures = {
            name: [record["figures"][name] for record in per_seed]
            for name in per_seed[0]["figures"]
        }
        expected: tuple[Expectation, ...] = self.traits["expect"]
        return {
            "verdict": verdict(expected, figures),
            "seconds": sum(record["seconds"] for record in per_seed),
            "figures": figures,
            "expected": [
                {
                    "figure": one.figure,
                    "means": one.means,
                    "bound": one.bound,
                    "over": one.over,
                    "met": one.met(figures.get(one.figure, [])),
                }
                for one in expected
            ],
            "panels": joined([record["panels"] for record in per_seed]),
        }


def joined(per_seed: Sequence[Sequence[Record]]) -> list[Record]:
    """Put the panels of several seeds together: curves of one label side by side."""
    panels: list[Record] = []
    for same in zip(*per_seed, strict=True):
        curves: dict[str, Record] = {}
        for curve in (curve for panel in same for curve in panel["curves"]):
            found = curves.setdefault(curve["label"], {"label": curve["label"], "lines": []})
            found["lines"].append([curve["x"], curve["y"]])
        panels.append({**same[0], "curves": list(curves.values())})
    return panels


def trial(
    name: str,
    out: Path,
    say: Callable[[str], None],
    *,
    seeds: tuple[int, ...],
    full: bool = False,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
) -> Trial:
    """Prepare to try a claim by name; every mistake is a ConfigError before anything runs."""
    found = find("claim", name)
    sizes = found.traits.get("full", {}) if full else {}
    rule = bind(found, {**sizes, **(settings or {})})
    return Trial(rule, seeds, out / Path(found.name).name, say, device)
