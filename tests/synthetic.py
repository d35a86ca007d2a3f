"""Run folders of a realistic shape without a run, and what a browser finds in their pages."""

from __future__ import annotations

import json
import math
import random
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from decentral.report.pages import script

PARAMETERS = 26_122
LATE = {
    "name": "late",
    "start": "90%",
    "intensity": 0.1,
    "then": 1.0,
    "final_merge": True,
}


# --- synthetic runs -------------------------------------------------------------------------------


def write_run(
    folder: Path,
    *,
    nodes: int = 16,
    steps: int = 3000,
    links: Sequence[tuple[int, int]] | None = None,
    communication: dict[str, Any] = LATE,
    regression: bool = False,
    finished: bool = True,
    classes: Sequence[str] | None = tuple("0123456789"),
    best: float = 0.942,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a run folder with curves of a realistic shape."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    links = (
        [(i, (i + 1) % nodes) for i in range(nodes) if nodes > 1]
        if links is None
        else links
    )
    rows = metric_rows(nodes, steps, len(links), communication, regression, best, draw)
    if not finished:
        rows = rows[: len(rows) * 2 // 5]
    events = [
        {
            "event": "start",
            "step": 0,
            "time": "2026-03-01T10:00:00.123+00:00",
            "device": "cpu",
        }
    ]
    if finished:
        events.append(
            {"event": "finished", "step": steps, "time": "2026-03-01T10:00:41+00:00"}
        )
        write_json(
            folder / "summary.json", summary(folder.name, nodes, steps, rows, regression)
        )
    settings = {
        "task": "digits", "nodes": nodes, "steps": steps, "local_steps": 10,
        "algorithm": {"name": "dsgd", "momentum": 0.9}, "topology": {"name": "ring"},
        "communication": communication, "split": {"name": "dirichlet", "alpha": 0.1},
        "learning_rate": {"name": "cosine", "base": 0.05, "warmup": "5%"}, "batch": 32,
        "seed": seed, "dtype": "float32", "notes": None, **config,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    write_json(
        folder / "env.json",
        {"python": "3.11.9", "torch": {"version": "2.13.0", "cuda": None}},
    )
    write_json(
        folder / "topology.json", {"n": nodes, "directed": False, "links": list(links)}
    )
    write_json(folder / "data.json", shards(nodes, classes, draw))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "events.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in events)
    )
    return folder


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def metric_rows(
    nodes: int,
    steps: int,
    links: int,
    communication: dict[str, Any],
    regression: bool,
    best: float,
    draw: random.Random,
) -> list[dict[str, Any]]:
    start = 0.9 if communication["name"] == "late" else 2.0
    rows: list[dict[str, Any]] = []
    total = 0.0
    every = max(1, steps // 200)
    for step in range(0, steps + 1, every):
        t = step / steps
        dense = t >= start
        intensity = (
            communication.get("then", 1.0)
            if dense
            else communication.get("intensity", 0.0)
        )
        total += (
            2
            * links
            * PARAMETERS
            * 4
            * (every / 10)
            * intensity
            * draw.uniform(0.7, 1.3)
            * (step > 0)
        )
        row: dict[str, Any] = {
            "step": step,
            "loss/train": 2.2 * math.exp(-6 * t) + 0.08 + draw.uniform(0, 0.06),
            "learning_rate": 0.05,
            "comm/bytes": round(total),
            "comm/intensity": intensity,
            "time/wall_s": 41.2 * t,
        }
        if step % (10 * every) == 0:
            row |= evaluation(t, dense, regression, nodes, best, draw)
        rows.append(row)
    before = rows[-1] | evaluation(1.0, start < 1, regression, nodes, best, draw)
    if not communication.get("final_merge", True):
        rows[-1] = before | {"phase": "final"}
        return rows
    rows[-1] = before | {"phase": "before_merge"}
    merged = {
        key: before[key.replace("local_mean", "merged")]
        for key in before
        if "local_mean" in key
    }
    sent = {"comm/bytes": round(total) + 2 * (nodes - 1) * PARAMETERS * 4}
    rows.append(before | merged | sent | {"consensus/distance": 0.0, "phase": "final"})
    return rows


def evaluation(
    t: float, dense: bool, regression: bool, nodes: int, best: float, draw: random.Random
) -> dict[str, float]:
    merged = 0.1 + (best - 0.1) * (1 - math.exp(-7 * t)) + draw.uniform(-0.006, 0.006)
    gap = 0.0 if nodes == 1 else 0.066 if dense else 0.05 + 0.32 * (1 - math.exp(-5 * t))
    local = max(0.1, merged - gap)
    spread = 0.0 if nodes == 1 else 0.04 if dense else 0.15
    found: dict[str, float] = {
        "loss/local_mean": 3 * math.exp(-3 * t) + 0.9 * gap + 0.2,
        "loss/local_min": 3 * math.exp(-3 * t) + 0.1,
        "loss/local_max": 3 * math.exp(-3 * t) + 2 * gap + 0.3,
        "loss/merged": 3 * math.exp(-5 * t) + 0.12,
        "consensus/distance": (0.02 + 2.4 * (1 - math.exp(-8 * t)))
        * (0.2 if dense else 1)
        * (nodes > 1),
        "time/steps_per_s": 72.8,
    }
    if not regression:
        found |= {
            "accuracy/local_mean": local,
            "accuracy/local_min": max(0.02, local - spread),
            "accuracy/local_max": min(0.99, local + 0.7 * spread),
            "accuracy/merged": merged,
        }
    return found


def summary(
    name: str, nodes: int, steps: int, rows: list[dict[str, Any]], regression: bool
) -> dict[str, Any]:
    final = rows[-1]
    before = rows[-2] if rows[-2].get("phase") else final
    allreduce = 2 * max(nodes - 1, 1) * PARAMETERS * 4 * steps
    return {
        "run": name, "config": "config.yaml", "steps": steps, "nodes": nodes, "status": "finished",
        "before_merge": {
            f"{metric}_{kind}": before.get(f"{metric}/{kind}")
            for metric in ("accuracy", "loss")
            for kind in ("local_mean", "local_min", "local_max", "merged")
        },
        "final": {
            "accuracy_local_mean": final.get("accuracy/local_mean"),
            "accuracy_merged": None if regression else final["accuracy/merged"],
            "loss_merged": final["loss/merged"],
        },
        "comm": {"bytes": final["comm/bytes"], "relative": final["comm/bytes"] / allreduce},
        "time": {"wall_s": 41.2, "steps_per_s": 72.8},
        "model": {"parameters": PARAMETERS},
    }  # fmt: skip


def shards(
    nodes: int, classes: Sequence[str] | None, draw: random.Random
) -> dict[str, Any]:
    if classes is None:
        return {
            "classes": None,
            "counts": [[draw.randint(60, 140)] for _ in range(nodes)],
        }
    counts = []
    for _ in range(nodes):
        weights = [draw.gammavariate(0.2, 1) + 1e-6 for _ in classes]
        size = draw.randint(60, 140)
        counts.append([round(size * weight / sum(weights)) for weight in weights])
    return {"classes": list(classes), "counts": counts}


def torus(side: int) -> list[tuple[int, int]]:
    right = [
        (side * r + c, side * r + (c + 1) % side)
        for r in range(side)
        for c in range(side)
    ]
    down = [
        (side * r + c, side * ((r + 1) % side) + c)
        for r in range(side)
        for c in range(side)
    ]
    return right + down


def twelve_runs(folder: Path) -> list[Path]:
    """Write runs that differ in schedule, heterogeneity and seed."""
    runs = []
    for index in range(12):
        intensity = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)[index % 6]
        schedule = LATE if index == 2 else {"name": "constant", "intensity": intensity}
        alpha = 0.1 if index < 6 else 1.0
        runs.append(
            write_run(
                folder / f"{schedule['name']}-{intensity:g}-alpha-{alpha:g}",
                communication=schedule,
                seed=index,
                best=0.80 + 0.012 * index,
                split={"name": "dirichlet", "alpha": alpha},
            )
        )
    return runs


# --- reading a page -------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser finds in a page: tags with attributes, and its text by tag and class."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(f"{tag}.{dict(attrs).get('class') or ''}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().split(".")[0] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, where: str) -> list[str]:
        return [data.replace("\xa0", " ") for place, data in self.texts if place == where]

    def attributes(self, name: str) -> list[str]:
        return [value for _, found in self.tags if (value := found.get(name)) is not None]


def assert_only_its_own_script(page: Page) -> None:
    """A page has one script, that of all pages, and lets a browser run no other."""
    assert [found for tag, found in page.tags if tag == "script"] == [{}]
    (code,) = (data for place, data in page.texts if place == "script.")
    assert code == script()
    digest = b64encode(sha256(code.encode()).digest()).decode()
    (policy,) = (found["content"] for tag, found in page.tags if "http-equiv" in found)
    assert policy is not None
    allowed = dict(part.split(maxsplit=1) for part in policy.split("; "))
    assert allowed == {
        "default-src": "'none'", "script-src": f"'sha256-{digest}'",
        "style-src": "'unsafe-inline'", "img-src": "data:",
    }  # fmt: skip


def assert_self_contained(page: Page) -> None:
    """Nothing in a page makes a browser ask for another file, and no id occurs twice."""
    assert not re.search(r"https?://|@import|@font-face", page.source)
    assert not {"iframe", "img", "object"} & {tag for tag, _ in page.tags}
    assert_only_its_own_script(page)
    links = [*page.attributes("href"), *page.attributes("src")]
    assert all(link.startswith(("#", "data:")) for link in links)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    used = {link[1:] for link in links if link.startswith("#")}
    drawn = page.source.partition("<script>")[0]
    used |= set(re.findall(r"url\(#([^)]+)\)", drawn))
    assert used <= set(ids)
