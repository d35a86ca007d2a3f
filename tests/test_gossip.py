"""Gossip in a loop of one's own: the bits of a run, goes on, merges, and refuses in one line."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import networkx as nx
import pytest
import torch
from support import blobs, crew, in_rounds, tiny_block
from torch import Tensor, nn

from decentral import (
    GLOBAL_MERGE,
    Gossip,
    lightning_callback,
    transformers_callback,
)
from decentral.api import gossip as module
from decentral.engines.ranks import Meeting, Ranks
from decentral.errors import ConfigError, RunError
from decentral.loop.block import Block
from decentral.loop.rounds import train
from decentral.registry import find
from decentral.traits import AlgorithmTraits, traits_of

RANKS, STEPS, BATCH = 3, 13, 4
Loop = Callable[[int], Any]


@contextmanager
def ranks() -> Iterator[Callable[[Loop], list[Any]]]:
    """Yield what runs a loop on every rank: threads that meet by real connections."""
    where = Ranks("torchrun", 0, RANKS, True, ("", 0), False, "test", 0, 0)
    workers = crew((1,) * RANKS, ordered=True)

    def on_all(loop: Loop) -> list[Any]:
        def stand(rank: int) -> Any:
            place.rank = rank  # which it is nobody knows but the thread
            return loop(rank)

        with ThreadPoolExecutor(RANKS) as pool:
            return list(pool.map(stand, range(RANKS)))

    def meet(*_: Any) -> Any:
        return workers[place.rank].exchange, None

    with (
        patch.object(module, "rank_here", lambda *_: where),
        patch.object(module, "meet", meet),
    ):
        yield on_all


class Place(threading.local):
    """The rank of a thread."""

    rank = 0


place = Place()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def block_of(**settings: Any) -> Block:
    """Return a run whose nodes are the ranks."""
    base: dict[str, Any] = {
        "task": blobs(), "model": net, "nodes": RANKS, "steps": STEPS, "batch": BATCH,
        "local_steps": 2, "dtype": "float64", "mixing": "ordered", "replicas": "loop",
        "optimizer": "sgd(momentum=0.9, weight_decay=0)",
        "learning_rate": "constant(lr=0.05)", "split": "iid", "init": "independent",
    }  # fmt: skip
    return tiny_block(**base | settings)


class Own:
    """What a user holds: a model, an optimizer, batches; those of a node of a run."""

    def __init__(self, block: Block, rank: int, **settings: Any) -> None:
        setup = block.setup
        momentum = setup.parts["optimizer"].settings["momentum"]
        self.block, self.rank = block, rank
        self.model = net().double()
        setup.layout.unpack(block.rows[rank], self.model)
        self.model.train()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=0.05, momentum=momentum
        )
        config = setup.config
        given = {"seed": config.seed, "local_steps": config.local_steps, "steps": STEPS}
        given |= {"mixing": "ordered", "init": "independent"}
        self.gossip = Gossip(self.model, self.optimizer, **given | settings)

    def take(self, begin: int, end: int, batches: list[Any]) -> None:
        for step in range(begin, end):
            inputs, targets = batches[step]
            loss = self.block.setup.task.loss(
                self.model(inputs[self.rank]), targets[self.rank]
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.gossip.step(loss.detach())

    def row(self) -> Tensor:
        layout = self.block.setup.layout
        row = torch.zeros(layout.width, dtype=torch.float64)
        layout.pack(self.model, row)
        return row

    def saved(self) -> bytes:
        file = io.BytesIO()
        parts = (self.model, self.optimizer, self.gossip)
        torch.save([part.state_dict() for part in parts], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        for part, state in zip(
            (self.model, self.optimizer, self.gossip),
            torch.load(io.BytesIO(saved)),
            strict=True,
        ):
            part.load_state_dict(state)


def batches_of(block: Block) -> list[Any]:
    found = [block.sampler.batch(step * BATCH, BATCH) for step in range(STEPS)]
    return [(batch.inputs.clone(), batch.targets.clone()) for batch in found]


def run_rows(block: Block) -> tuple[Tensor, dict[str, Any]]:
    """Train a run; return its rows before the final merge, and its counters then."""
    rows: list[Tensor] = []
    counters: dict[str, Any] = {}
    for record in train(block, lambda complete: {}):  # type: ignore[arg-type]
        if block.step == STEPS and not rows:
            rows.append(block.rows.clone())
            counters = record
    return (rows or [block.rows.clone()])[0], counters


SETTINGS = [
    {"algorithm": "dsgd", "communication": "constant(0.6)", "topology": "complete"},
    {"algorithm": "dsgd", "communication": "late", "topology": "exponential"},
    {"algorithm": "dsgd", "communication": "adaptive(target=0.01, feedback_every=2)"},
    {"algorithm": "dsgd", "communication": "constant", "gossip_buffers": False},
    {"algorithm": "dsgd", "communication": "constant", "codec": "int8"},
    {"algorithm": "dsgd", "communication": "constant", "codec": "choco(top_k(0.25))"},
    {
        "algorithm": "dsgd",
        "communication": "constant",
        "aggregation": "median",
        "topology": "complete",
    },
    {"algorithm": "streaming_diloco(fragments=2, overlap=1, keep=0.5)"},
    {"algorithm": "noloco", "topology": "random_matchings"},
]


def name_of(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


def own_rows(block: Block, settings: dict[str, Any]) -> list[Own]:
    batches = batches_of(block)

    def loop(rank: int) -> Own:
        own = Own(block, rank, **settings)
        own.take(0, STEPS, batches)
        return own

    with ranks() as on_all:
        return on_all(loop)


@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_the_bits_are_those_of_a_run(settings: dict[str, Any]) -> None:
    block = block_of(**settings)
    owns = own_rows(block, settings)
    wanted, counters = run_rows(block)
    # Sums of a global merge are taken in another order.
    merges = block.planner and block.planner.schedule.rule.name == "merges"
    for own in owns:
        near = torch.allclose(own.row(), wanted[own.rank], rtol=0, atol=1e-14)
        assert near if merges else torch.equal(own.row(), wanted[own.rank]), own.rank
    sent = owns[0].gossip.metrics
    for key in ("comm/bytes", "comm/messages", "comm/rounds"):
        assert sent[key] == counters[key] > 0, key


#: What works behind an optimizer's step of somebody else's loop; the rest is refused.
TAKEN = {
    "diloco", "dsgd", "exact_diffusion", "local_sgd", "noloco", "post_local_sgd", "relay_sum",
    "slowmo", "streaming_diloco",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({*in_rounds()} - {"noloco", "streaming_diloco"}))
def test_an_algorithm_is_that_of_a_run_or_refused(name: str) -> None:
    traits = traits_of(find("algorithm", name), AlgorithmTraits)
    optimizer = "sgd(momentum=0, weight_decay=0)"
    settings: dict[str, Any] = {"algorithm": name}
    if traits.communicates == "rounds":
        settings["communication"] = "constant"
    block = block_of(**settings, optimizer=optimizer)
    if name not in TAKEN:
        with pytest.raises(
            ConfigError, match=r"decentral\.launch|sends no models|in rounds"
        ):
            own_rows(block, settings)
        return
    owns = own_rows(block, settings)
    wanted, counters = run_rows(block)
    for own in owns:
        assert torch.equal(own.row(), wanted[own.rank]), own.rank
    assert owns[0].gossip.metrics["comm/bytes"] == counters["comm/bytes"] > 0


# --- goes on, merges, begins --------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"algorithm": "diloco", "local_steps": 5},
        {"algorithm": "streaming_diloco(fragments=2, overlap=3)", "local_steps": 4},
        {
            "communication": "adaptive(target=0.01, feedback_every=2)",
            "codec": "int8",
        },
        {"communication": lambda progress, feedback: (progress.step % 4) / 4},
    ],
    ids=["diloco", "streaming", "closed loop", "own schedule"],
)
def test_it_goes_on_in_the_middle_of_an_outer_step(settings: dict[str, Any]) -> None:
    block = block_of()
    batches = batches_of(block)

    def loop(rank: int) -> bool:
        whole = Own(block, rank, **settings)
        whole.take(0, STEPS, batches)
        first = Own(block, rank, **settings)
        first.take(0, 7, batches)
        saved = first.saved()
        first.take(7, 9, batches)  # what came after is forgotten
        again = Own(block, rank, **settings)
        again.load(saved)
        again.take(7, STEPS, batches)
        assert again.gossip.metrics == whole.gossip.metrics
        return torch.equal(again.row(), whole.row())

    with ranks() as on_all:
        assert on_all(loop) == [True] * RANKS


class Counting(nn.Module):
    """A model with a buffer of every type."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.layer.weight, float(rank))
        self.frozen = nn.Parameter(torch.full((3,), float(rank)), requires_grad=False)
        self.register_buffer("mean", torch.tensor([float(rank)]))
        self.register_buffer("count", torch.tensor(rank))
        self.register_buffer("above", torch.tensor(rank > 1))
        self.register_buffer("range", torch.tensor([float("inf")]))
        if rank != 1:
            self.range.fill_(float("inf"))


def test_merged_buffers_follow_the_rule_of_merged_models() -> None:
    def loop(rank: int) -> nn.Module:
        model = Counting(rank)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        gossip = Gossip(model, optimizer, schedule="constant", init="independent")
        model.range.fill_(float(rank) if rank != 1 else float("inf"))
        gossip.merge()
        assert gossip.metrics["comm/bytes"] == 4 * (4 + 1) * 4
        return model

    with ranks() as on_all:
        for rank, model in enumerate(on_all(loop)):
            assert model.layer.weight.eq(1).all()
            found = [model.mean, model.count, model.above, model.range]
            assert [value.item() for value in found] == [1.0, 2, True, 1.0]
            assert model.frozen.eq(rank).all()


def simple(rank: int, **settings: Any) -> Gossip:
    model = nn.Linear(4, 1)
    nn.init.constant_(model.weight, float(settings.pop("weight", 0)))
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Gossip(model, optimizer, **{"schedule": "constant"} | settings)


def test_all_begin_with_the_model_of_rank_0_or_say_that_they_differ() -> None:
    def shared(rank: int) -> float:
        gossip = simple(rank, weight=rank + 3, init="shared")
        return gossip._row.model.weight[0, 0].item()

    with ranks() as on_all:
        assert on_all(shared) == [3.0] * RANKS
        with pytest.raises(ConfigError, match="models differ between rank 0 and rank 1"):
            on_all(lambda rank: simple(rank, weight=rank))
        with pytest.raises(
            ConfigError, match="settings differ between rank 0 and rank 2"
        ):
            on_all(lambda rank: simple(rank, local_steps=1 + rank // 2))


def twice_then_merge(progress: Any, feedback: Any) -> Any:
    """Gossip at every second communication step, and merge at every fourth."""
    index = progress.communication_step + 1
    return GLOBAL_MERGE if index % 4 == 0 else float(index % 2 == 0)


def test_ones_own_schedule_and_graph_in_a_loop_without_an_end() -> None:
    graph = nx.path_graph(RANKS)

    def loop(rank: int) -> tuple[list[bool], float]:
        gossip = simple(
            rank, weight=rank, init="independent", schedule=twice_then_merge,
            topology=graph, local_steps=1,
        )  # fmt: skip
        sent = [gossip.step() for _ in range(4)]
        return sent, gossip._row.model.weight[0, 0].item()

    with ranks() as on_all:
        for sent, weight in on_all(loop):
            assert sent == [False, True, False, True]
            assert weight == pytest.approx(1)


def test_a_model_of_16_bits_and_one_that_is_frozen_for_the_most_part() -> None:
    def loop(rank: int) -> tuple[Any, ...]:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1, bias=False)).bfloat16()
        model[0].requires_grad_(False)
        nn.init.constant_(model[1].weight, rank / 2)
        optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
        gossip = Gossip(model, optimizer, topology="complete", schedule="constant",
                        init="independent", local_steps=1)  # fmt: skip
        gossip.step()
        first = model[1].weight
        return gossip.metrics["comm/bytes"], first.dtype, first[0, 0].item()

    with ranks() as on_all:
        assert on_all(loop) == [(6 * 4 * 4, torch.bfloat16, 0.5)] * RANKS


def test_a_model_that_is_not_finite_is_not_sent() -> None:
    gossip = simple(0, local_steps=1)
    with torch.no_grad():
        gossip._row.model.weight.fill_(torch.nan)
    with pytest.raises(
        RunError, match="rank 0: the model became NaN or infinite by step 1"
    ):
        gossip.merge()


def test_ranks_without_a_coordinator_know_each_others_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    first = Ranks("srun", 0, 2, True, ("nowhere", port), True, "9.0", 0, 0)
    seen = [Meeting(first)]
    seen.append(Meeting(replace(first, rank=1, serves=False)))
    for meeting in seen:  # they count runs of one process apart
        meeting.prefix = seen[0].prefix
        meeting._set(f"in/{meeting.ranks.rank}", "here")
    found = [meeting.rendezvous(5.0) for meeting in seen]
    assert [one.address for one in found] == ["127.0.0.1"] * 2
    assert found[0] == replace(found[1], rank=0)
    # On several hosts those elsewhere tell how they call that of the store.
    far = Ranks("srun", 0, 2, False, ("127.0.0.1", port), False, "9.0", 0, 0)
    for meeting in seen:
        meeting.ranks = replace(far, rank=meeting.ranks.rank)
    with patch("decentral.engines.ranks.route", lambda *_: ("10.0.0.2", "10.0.0.1")):
        assert seen[1].rendezvous(5.0).address == "10.0.0.2"
    assert seen[0].rendezvous(5.0).address == "10.0.0.1"


# --- in loops that others have written ----------------------------------------------------


def environment() -> dict[str, str]:
    return {
        "TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }  # fmt: skip


@pytest.mark.parametrize("made", [transformers_callback, lightning_callback])
def test_a_callback_takes_the_ranks_that_a_trainer_would_join(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    callback = made(topology="ring", schedule="constant")
    assert (callback.rank, callback.ranks) == (1, 2)
    left = set(environment()) & set(os.environ)
    assert left == {"MASTER_ADDR", "MASTER_PORT"}


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_transformers_goes_on_in_the_middle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs transformers")
    from transformers import Trainer, TrainingArguments

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(2, 1)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            out = self.layer(x)
            return {"loss": (out - labels).square().mean(), "logits": out}

    data = [{"x": torch.randn(2), "labels": torch.ones(1)} for _ in range(16)]

    def train_on(folder: str, steps: int, resume: bool = False) -> Any:
        callback = transformers_callback(algorithm="diloco", local_steps=4, steps=8)
        args = TrainingArguments(
            str(tmp_path / folder), max_steps=steps, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, save_steps=6, report_to=[], use_cpu=True,
            disable_tqdm=True, logging_steps=2, lr_scheduler_type="constant",
        )  # fmt: skip
        trainer = Trainer(Line(), args, train_dataset=data, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        return trainer, callback.gossip

    whole, gossip = train_on("whole", 8)
    assert gossip.metrics["step"] == 8
    assert gossip.metrics["comm/rounds"] == 3  # two outer steps, and the merge
    assert "'comm/rounds': 2" in capsys.readouterr().out
    train_on("parts", 6)
    again, after = train_on("parts", 8, resume=True)
    assert after.metrics == gossip.metrics
    assert torch.equal(again.model.layer.weight, whole.model.layer.weight)


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_lightning_goes_on_in_the_middle(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="needs lightning")

    class Line(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(2, 1)

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return (self.layer(batch[0]) - 1).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    # Alike, so that it does not matter where an epoch begins again.
    data = torch.utils.data.TensorDataset(torch.ones(16, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=2)

    kept = tmp_path / "four.ckpt"

    class Saving(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 4:
                trainer.save_checkpoint(kept)

    def train_on(path: Path | None = None) -> Any:
        settings: dict[str, Any] = {"algorithm": "diloco", "local_steps": 3, "steps": 8}
        callback = lightning_callback(merge=False, **settings)
        trainer = lightning.Trainer(
            max_steps=8, accelerator="cpu", devices=1, callbacks=[callback, Saving()],
            logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        model = Line()
        trainer.fit(model, loader, ckpt_path=path)
        return model.layer.weight, callback.gossip.metrics

    whole, sent = train_on()
    assert (sent["step"], sent["comm/rounds"]) == (8, 2)
    after, again = train_on(kept)
    assert again == sent
    assert torch.equal(after, whole)


# --- against torchft ----------------------------------------------------------------------


class Averager:
    """What torchft's DiLoCo asks of its manager, among threads: means, and a count of rounds."""

    _use_async_quorum = False

    def __init__(self, everybody: list[Averager], barrier: threading.Barrier) -> None:
        self.everybody, self.barrier, self.round = everybody, barrier, 0
        everybody.append(self)

    def register_state_dict_fn(self, *_: Any) -> None:
        """Keep nothing."""

    disallow_state_dict_read = allow_state_dict_read = start_quorum = (
        register_state_dict_fn
    )

    def current_step(self) -> int:
        return self.round

    def should_commit(self) -> bool:
        self.round += 1
        return True

    def allreduce(self, tensor: Tensor, should_quantize: bool = False) -> Any:
        self.sent = tensor.clone()
        self.barrier.wait()
        tensor.copy_(torch.stack([one.sent for one in self.everybody]).mean(0))
        self.barrier.wait()
        return SimpleNamespace(wait=lambda: None)


def two_layers() -> nn.Module:
    """Two layers of as many parameters each: the spans of a row are the layers."""
    layers = (nn.Linear(8, 8, bias=False) for _ in range(2))
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(64.0).view(8, 8).sin() + number)
    return model


@pytest.mark.parametrize(("fragments", "keep"), [(1, 0.0), (2, 0.0), (2, 0.5)], ids=str)
def test_each_step_is_that_of_torchft(fragments: int, keep: float) -> None:
    """Inner AdamW with a warm-up, outer Nesterov, fragments in turn; equal gradients."""
    torchft = pytest.importorskip("torchft.local_sgd", reason="needs torchft 0.2.0")
    every, rounds = 6, 8
    barrier, managers = threading.Barrier(RANKS), list[Averager]()
    for _ in range(RANKS):
        Averager(managers, barrier)

    def train_on(rank: int, reference: bool) -> list[Tensor]:
        model = two_layers()
        inner = torch.optim.AdamW(model.parameters(), lr=0.02, betas=(0.9, 0.95))
        warm = torch.optim.lr_scheduler.LambdaLR(inner, lambda k: min(1.0, (k + 1) / 9))
        draw = torch.Generator().manual_seed(rank)
        if reference:
            outer = [
                torch.optim.SGD(part.parameters(), lr=0.7, momentum=0.9, nesterov=True)
                for part in ([model] if fragments == 1 else model)
            ]
            ours = torchft.DiLoCo(
                managers[rank], [model] if fragments == 1 else list(model), inner, outer,
                sync_every=every, fragment_update_alpha=keep,
            )  # fmt: skip
            ours.__enter__()
        else:
            name = "diloco" if fragments == 1 else "streaming_diloco"
            algorithm: dict[str, Any] = {"name": name}
            if fragments > 1:
                algorithm |= {"fragments": fragments, "keep": keep}
            gossip = Gossip(
                model, inner, algorithm=algorithm, local_steps=every // fragments
            )
        found: list[Tensor] = []
        for _ in range(every * rounds // fragments):
            inputs = torch.randn(4, 8, generator=draw, dtype=torch.float64)
            inner.zero_grad()
            (model(inputs) - inputs).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            inner.step()
            if not reference:
                gossip.step()
            warm.step()
            found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return found

    with ranks() as on_all:
        mine = on_all(lambda rank: train_on(rank, False))
        theirs = on_all(lambda rank: train_on(rank, True))
    for own, other in zip(mine, theirs, strict=True):
        for step, (one, two) in enumerate(zip(own, other, strict=True)):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12, msg=f"step {step}")
