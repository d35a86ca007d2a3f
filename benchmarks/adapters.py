"""Adapters trained by two ranks of torchrun, killed, resumed, merged, exported, and used
without decentral.

A tiny base learns Shakespeare; then four nodes train LoRA on articles of WikiText, each on
articles of its own. Every run loses rank 1 by SIGKILL on its way. The exported adapter is
loaded by transformers and peft in a process that knows nothing of decentral, where its
logits must be the bits of the run's own. Perplexities are of bytes, on articles that
nobody has trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

import decentral

CONTEXT, NODES, ARTICLES = 64, 4, 6
BASE = (
    "hf(config={model_type=gpt2, n_layer=2, n_embd=64, n_head=2, n_positions=64, "
    "resid_pdrop=0, embd_pdrop=0, attn_pdrop=0})"
)
TORCHRUN = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
    "-m", "decentral",
]  # fmt: skip

#: What somebody runs who has transformers and peft, and no decentral.
PLAIN = """
import json, sys
sys.modules["decentral"] = None
import torch, peft, transformers
base, adapter, inputs, out = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(base)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    torch.save(model(torch.load(inputs)).logits, out)
"""


def articles(source: Path, target: Path, most: int | None = None) -> None:
    """Write the articles of a file of WikiText as rows of JSON."""
    whole = source.read_text(encoding="utf-8")
    found = [one for one in re.split(r"(?m)^(?= = [^=])", whole) if one.strip()][:most]
    lines = (json.dumps({"text": one}) + "\n" for one in found)
    target.write_text("".join(lines), encoding="utf-8")


def make_base(shakespeare: Path, folder: Path, steps: int) -> Path:
    """Train the base, once, and return its folder as transformers reads it."""
    if not (folder / "base").exists():
        task = f"text(path={shakespeare}, tokens=byte, context={CONTEXT}, cache={folder / 'cache'})"
        run = decentral.launch(
            task=task, model=BASE, nodes=1, steps=steps, batch=32, metrics="loss",
            out=str(folder / "pretrained"),
        )  # fmt: skip
        run.export(folder / "base")
    return folder / "base"


def train(folder: Path, seed: int, steps: int) -> decentral.Run:
    """Train adapters on two ranks, kill one in the middle, and resume."""
    place = folder / f"seed-{seed}"
    config = {
        "task": {
            "name": "text", "path": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"),
            "tokens": "byte", "context": CONTEXT, "cache": str(folder / "cache"),
        },
        "model": {"name": "lora", "path": str(folder / "base"), "rank": 8},
        "nodes": NODES, "steps": steps, "batch": 16, "seed": seed,
        "split": {"name": "classes", "k": ARTICLES},
        "learning_rate": {"name": "cosine", "lr": 0.005, "warmup": "10%"},
        "metrics": ["loss", "perplexity"], "eval_every": steps, "eval_samples": 100_000,
        "checkpoint_every": steps // 6, "dtype": "float32",
    }  # fmt: skip
    file = folder / f"seed-{seed}.yaml"
    file.write_text(json.dumps(config))  # which is YAML
    words = [*TORCHRUN, "launch", str(file), "--quiet", "--out", str(place)]
    first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    half = place / "checkpoints" / f"step-{steps // 6 * 3:09}"
    while not half.exists() and first.poll() is None:
        time.sleep(0.02)
    ranks = children(first.pid)
    os.kill(ranks[1], signal.SIGKILL)
    said = first.communicate()[1]
    (line,) = [one for one in said.splitlines() if one.startswith("error:")]
    print(line)
    subprocess.run([*TORCHRUN, "resume", str(place), "--quiet"], check=True)
    return decentral.Run(place)


def children(process: int) -> list[int]:
    """Return the ranks that an agent of torchrun has started, in order."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    by_rank = {}
    for one in found:
        environ = Path(f"/proc/{one}/environ").read_bytes().split(b"\0")
        ranks = [entry for entry in environ if entry.startswith(b"RANK=")]
        if ranks:
            by_rank[int(ranks[0][5:])] = int(one)
    return [by_rank[rank] for rank in sorted(by_rank)]


def same_logits(run: decentral.Run, folder: Path) -> bool:
    """Whether the exported adapter computes the bits of the run's model elsewhere."""
    out = run.path / "export"
    run.export(out)
    inputs = torch.randint(256, (8, CONTEXT), generator=torch.Generator().manual_seed(1))
    torch.save(inputs, folder / "inputs.pt")
    words = [str(folder / "base"), str(out), str(folder / "inputs.pt")]
    theirs = folder / "logits.pt"
    command = [sys.executable, "-c", PLAIN, *words, str(theirs)]
    subprocess.run(command, check=True, cwd=folder)
    with torch.no_grad():
        return torch.equal(torch.load(theirs), run.merged_model()(inputs))


def measure(run: decentral.Run) -> dict[str, float]:
    """Return the perplexities of base, nodes and merged adapter."""
    begin = run.rows[0]
    before, final = run.summary["before_merge"], run.summary["final"]
    sent = run.summary["counters"]["comm/bytes"]
    return {
        "base": begin["perplexity/merged"],
        "nodes": before["perplexity/local_mean"],
        "merged": final["perplexity/merged"],
        "bytes": sent,
    }


def main(words: list[str] | None = None) -> list[dict[str, float]]:
    """Measure all seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, help="folder with the three texts")
    parser.add_argument("--out", type=Path, default=Path("adapters"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--base-steps", type=int, default=600)
    asked = parser.parse_args(words)
    folder: Path = asked.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    articles(asked.texts / "wikitext2.valid.txt", folder / "train.jsonl")
    articles(asked.texts / "wikitext2.test.txt", folder / "test.jsonl", ARTICLES)
    make_base(asked.texts / "tinyshakespeare.txt", folder, asked.base_steps)
    rows = []
    print("| seed | base | mean of the nodes | merged | bytes sent | equal logits |")
    print("|--:|--:|--:|--:|--:|---|")
    for seed in range(asked.seeds):
        run = train(folder, seed, asked.steps)
        row = measure(run) | {"seed": seed, "equal": same_logits(run, folder)}
        rows.append(row)
        print("| {seed} | {base:.3f} | {nodes:.3f} | {merged:.3f} | {bytes:,.0f} | {equal} |"
              .format(**row), flush=True)  # fmt: skip
    gains = [row["base"] - row["merged"] for row in rows]
    if len(gains) > 1:
        spread = statistics.stdev(gains)
        print(f"below the base by {min(gains):.3f} at least, deviation {spread:.3f}")
    return rows


if __name__ == "__main__":
    main()
