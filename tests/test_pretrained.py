"""Models of transformers from a folder, and adapters for them; every model is made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_block
from torch import Tensor, nn

from decentral import ConfigError, Run, Task, launch, merge, resume
from decentral.api import models_of
from decentral.config import make_config
from decentral.layout import Layout
from decentral.loop.preparing import prepare
from decentral.merging.base import Models
from decentral.registry import build
from decentral.topology.labels import NodeId

transformers: Any = pytest.importorskip("transformers")
peft: Any = pytest.importorskip("peft")

VOCABULARY, CONTEXT = 256, 16
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": CONTEXT, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": 10, "bos_token_id": None,
    },
    "llama": {
        "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": CONTEXT, "eos_token_id": 10,
        "bos_token_id": None,
    },
    "bert": {
        "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": CONTEXT, "pad_token_id": 0,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
}  # fmt: skip


def saved(
    folder: Path, family: str = "gpt2", kind: str = "CausalLM", dtype: str = "float32"
) -> Path:
    """Return a folder with a tiny model, as people's are."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(
        family, vocab_size=VOCABULARY, initializer_range=0.2, **SIZES[family]
    )
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def made(spec: str, **settings: Any) -> Any:
    return build("model", {"name": spec, **settings})((CONTEXT,), VOCABULARY)


def text(folder: Path) -> str:
    file = folder / "text.txt"
    file.write_text("to be or not to be, that is the question.\n" * 600)
    return f"text(path={file}, context={CONTEXT}, tokens=byte, cache={folder})"


def tokens(rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(11, VOCABULARY, (rows, CONTEXT), generator=generator)


# --- loading ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_causal_model_has_the_weights_of_its_folder(
    tmp_path: Path, family: str
) -> None:
    path = saved(tmp_path / "base", family)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ours = made("hf", path=str(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            ours(tokens()), theirs(tokens()).logits, rtol=0, atol=0
        )
    # GPT-2 has one matrix for both ends, which a row holds once.
    tied = theirs.config.tie_word_embeddings
    names = [entry.name for entry in Layout.of(ours).parameters]
    assert (family == "gpt2") == tied
    assert sum(name.endswith(("wte.weight", "lm_head.weight")) for name in names) == 1


def test_encoders_do_not_attend_to_padding(tmp_path: Path) -> None:
    path = saved(tmp_path / "base", "bert", "MaskedLM")
    padded = tokens()
    padded[:, 9:] = 0
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(path).eval()
    ours = made("hf", path=str(path), kind="masked").eval()
    with torch.no_grad():
        right = theirs(padded, attention_mask=(padded != 0).long()).logits
        torch.testing.assert_close(ours(padded), right)
        assert (theirs(padded).logits - right).abs().max() > 1e-3


def test_only_the_head_of_a_classifier_is_drawn_anew_and_travels_with_adapters(
    tmp_path: Path,
) -> None:
    path = saved(tmp_path / "base", "bert", "MaskedLM")
    rule = build("model", {"name": "lora", "path": str(path), "kind": "classifier"})
    model: Any = rule((CONTEXT,), 3)
    assert model.eval()(tokens()).shape == (3, 3)
    assert "drawn anew, bert.pooler.dense.bias" in model.notes[0]
    names = " ".join(entry.name for entry in Layout.of(model).parameters)
    assert "pooler" in names
    assert "classifier" in names
    assert "embeddings" not in names


def test_separate_documents_do_not_see_each_other(tmp_path: Path) -> None:
    path = saved(tmp_path / "base")
    one, other = tokens(1), tokens(1)
    one[:, 6] = other[:, 6] = 10
    other[:, :6] = one[:, :6].flip(1)
    for separate in (True, False):
        model = made("hf", path=str(path), separate=separate).eval()
        with torch.no_grad():
            moved = (model(one) - model(other)).abs().amax((0, 2))
        assert moved[:6].max() > 1e-3
        assert (moved[7:].max() == 0) == separate


def test_bfloat16_weights_are_said_and_kept_exactly(tmp_path: Path) -> None:
    path = saved(tmp_path / "base", dtype="bfloat16")
    model = made("hf", path=str(path))
    assert next(model.parameters()).dtype == torch.bfloat16
    assert "weights are bfloat16" in model.notes[0]
    setup = prepare(make_config({"task": text(tmp_path), "model": f"hf(path={path})"}))
    assert model.notes[0] in setup.notes
    held = setup.layout.views(setup.initial_rows([NodeId(0), NodeId(1)]))
    for name, value in load_file(path / "model.safetensors").items():
        for row in held[f"model.{name}"]:
            assert torch.equal(row, value.float())


def damage(path: Path, how: str) -> str:
    """Spoil a folder; return what should be said."""
    weights = path / "model.safetensors"
    if how == "no folder":
        shutil.rmtree(path)
        return "has no config.json"
    if how == "pickle":
        weights.rename(path / "pytorch_model.bin")
        return "pytorch_model.bin and no safetensors; pickles are not loaded"
    if how == "adapter":
        (path / "config.json").rename(path / "adapter_config.json")
        return "holds an adapter, not a model"
    state = load_file(weights)
    if how == "missing":
        del state["transformer.h.0.mlp.c_fc.weight"]
        said = "has no transformer.h.0.mlp.c_fc.weight"
    else:
        state["transformer.h.7.mlp.c_fc.weight"] = torch.ones(2)
        said = "has, beyond what the model is made of, transformer.h.7.mlp.c_fc.weight"
    save_file(state, weights, {"format": "pt"})
    return said


@pytest.mark.parametrize("how", ["no folder", "pickle", "adapter", "missing", "more"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, how: str) -> None:
    path = saved(tmp_path / "base")
    said = damage(path, how)
    with pytest.raises(ConfigError, match=said):
        made("hf", path=str(path))


@pytest.mark.parametrize("known", [True, False])
def test_code_that_a_folder_brings_does_not_run(tmp_path: Path, known: bool) -> None:
    path, mark = saved(tmp_path / "base"), tmp_path / "mark"
    (path / "own.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass C: ...\nclass M: ...\n"
    )
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    config |= {} if known else {"model_type": "own", "architectures": ["M"]}
    (path / "config.json").write_text(json.dumps(config))
    if known:
        made("hf", path=str(path))
    else:
        with pytest.raises(ConfigError, match="code"):
            made("hf", path=str(path))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "give path=FOLDER"),
        ({"config": {"model_type": "gpt2", "vocab_size": 9}}, "knows 9 tokens"),
        ({"config": {"model_type": "gpt2", "n_positions": 4}}, "of 4 positions"),
        ({"config": {"model_type": "t5"}}, "encodes and decodes"),
        ({"config": {**SIZES["gpt2"], "eos_token_id": None, "model_type": "gpt2"},
          "separate": True}, "eos_token_id"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made("hf", **settings)


# --- adapters ---------------------------------------------------------------------


def adapted(folder: Path, **settings: Any) -> Run:
    path = saved(folder / "base")
    given: dict[str, Any] = {"task": text(folder), "nodes": 3, "steps": 4, "seed": 5}
    given |= {"topology": "ring", "batch": 4, "learning_rate": 0.05, "local_steps": 1}
    given |= {"communication.final_merge": False, "out": str(folder / "run"), **settings}
    return launch(model=f"lora(path={path}, rank=2)", **given)


def merged(run: Run) -> dict[str, Tensor]:
    return load_file(run.path / "merged.safetensors")


def test_only_adapters_are_trained_sent_and_kept(tmp_path: Path) -> None:
    run = adapted(tmp_path, replicas="loop")
    numbers = 2 * (16 + 48 + 16 + 16 + 16 + 64 + 64 + 16)
    state = merged(run)
    assert sum(v.numel() for v in state.values()) == numbers
    assert all(".lora_" in name for name in state)
    last = run.rows[-1]
    assert last["comm/messages"] > 0
    assert last["comm/bytes"] == 4 * numbers * last["comm/messages"]
    models = models_of(run.path)
    base = models.setup.layout.frozen
    assert all(entry.name not in base for entry in models.setup.layout.parameters)
    one, other = (run.models()[k] for k in (0, 1))
    frozen = dict(one.named_parameters())
    for name, value in other.named_parameters():
        assert torch.equal(frozen[name], value) == (not value.requires_grad)


def test_rows_of_adapters_are_the_same_together_and_one_by_one(tmp_path: Path) -> None:
    runs = [
        adapted(tmp_path / how, replicas=how, dtype="float64", steps=2)
        for how in ("loop", "vmap")
    ]
    one, other = (merged(run) for run in runs)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_adapters_load_by_peft_and_merged_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very lines that are printed, in the folder that was written."""
    run = adapted(tmp_path)
    lines = run.export(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    known = {"peft": peft, "transformers": transformers}
    adapter, whole = (
        eval(lines[k], known).eval() for k in ("transformers and peft", "transformers")
    )
    with torch.no_grad():
        right = run.merged_model()(tokens())
        start = made("hf", path=str(tmp_path / "base")).eval()(tokens())
        assert torch.equal(adapter(tokens()).logits, right)
        torch.testing.assert_close(whole(tokens()).logits, right, rtol=1e-4, atol=1e-5)
    assert (right - start).abs().max() > 1e-3
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_adapters_go_on_with_their_own_base_only(tmp_path: Path) -> None:
    run = adapted(tmp_path, checkpoint_every=2)
    moved = tmp_path / "base"
    file = moved / "model.safetensors"
    state = load_file(file)
    right = state["transformer.h.0.mlp.c_fc.weight"][0, 0].clone()
    state["transformer.h.0.mlp.c_fc.weight"][0, 0] += 1e-6
    save_file(state, file, {"format": "pt"})
    said = rf"the frozen weights of {moved} are not those"

    def go_on() -> None:
        (run.path / "summary.json").unlink()
        resume(run.path)

    for act in (
        run.merged_model,
        run.models,
        lambda: run.export(tmp_path / "out"),
        lambda: run.export(tmp_path / "out", nodes=True),
        lambda: merge(run, "uniform"),
        go_on,
    ):
        with pytest.raises(ConfigError, match=said) as found:
            act()
        assert len(str(found.value).splitlines()) == 1
    state["transformer.h.0.mlp.c_fc.weight"][0, 0] = right
    save_file(state, file, {"format": "pt"})
    elsewhere = moved.rename(tmp_path / "elsewhere")
    resume(run.path, change={"model.path": str(elsewhere), "steps": 6}).merged_model()


def test_layers_whose_weight_is_shared_get_no_adapter(tmp_path: Path) -> None:
    path = str(saved(tmp_path / "base"))
    with pytest.raises(ConfigError, match=r"transformer\.wte and lm_head share one"):
        made("lora", path=path, targets=["wte"])
    with pytest.raises(ConfigError, match="no layer 'q_proj' for targets; there are"):
        made("lora", path=path, targets=["q_proj"])


class Adapter(nn.Module):
    """An adapter and a number beside it."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(7, rank), nn.Linear(rank, 5)
        self.rest = nn.Parameter(torch.randn(3))


def products(spread: float, rank: int = 2) -> tuple[Tensor, Tensor, Layout, Tensor]:
    """Return the merged row of 4 adapters, the mean of their products, layout, rows."""
    torch.manual_seed(0)
    model = Adapter(rank).double()
    layout = Layout.of(model)
    rows = torch.randn(4, layout.width, dtype=torch.float64)
    down = next(e for e in layout.parameters if e.name == "lora_A.weight")
    rows[1:, down.start : down.stop] *= spread
    rows[1:, down.start : down.stop] += (1 - spread) * rows[0, down.start : down.stop]
    unused: Any = None
    given = Models(rows, torch.ones(4), rows[0], model, layout, 0, unused, unused)
    views = layout.views(rows)
    mean = (views["lora_B.weight"] @ views["lora_A.weight"]).mean(0)
    return build("merge", "lora_product")(given), mean, layout, rows


def test_products_of_adapters_with_one_a_are_averaged_exactly() -> None:
    row, mean, layout, rows = products(spread=0.0)
    views = layout.views(row[None])
    torch.testing.assert_close((views["lora_B.weight"] @ views["lora_A.weight"])[0], mean)
    torch.testing.assert_close(row, rows.mean(0))


@pytest.mark.parametrize("rank", [2, 6])
def test_products_of_adapters_are_approximated_best(rank: int) -> None:
    """By Eckart and Young: what is left out are the smaller singular values."""
    row, mean, layout, rows = products(spread=1.0, rank=rank)
    views = layout.views(row[None])
    left = mean - (views["lora_B.weight"] @ views["lora_A.weight"])[0]
    least = torch.linalg.svdvals(mean)[rank:].square().sum().sqrt()
    torch.testing.assert_close(left.norm(), least, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(views["rest"][0], layout.views(rows)["rest"].mean(0))


@pytest.mark.slow
def test_every_adapter_is_exported_and_the_mean_of_their_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = adapted(tmp_path, communication="none", steps=6, learning_rate=0.3)
    lines = run.export(tmp_path / "out", nodes=True)
    monkeypatch.chdir(tmp_path / "out")
    states = [load_file(f"nodes/{node}/adapter_model.safetensors") for node in range(3)]
    joined = load_file("product/adapter_model.safetensors")
    for name, a in joined.items():
        if ".lora_A." in name:
            up = name.replace("lora_A", "lora_B")
            mean = sum(state[up] @ state[name] for state in states) / 3
            torch.testing.assert_close(joined[up] @ a, mean, rtol=1e-5, atol=1e-6)
    line = lines["transformers and peft, the mean of products"]
    loaded = eval(line, {"peft": peft, "transformers": transformers}).eval()
    config = loaded.peft_config["default"]
    assert (config.r, config.lora_alpha) == (6, 12)
    # The mean of A and of B is another model.
    with torch.no_grad():
        factors = run.models().module("mean")(tokens())
        assert (loaded(tokens()).logits - factors).abs().max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked", "classifier"])
@pytest.mark.parametrize("name", ["hf", "lora"])
def test_encoders_learn_from_tasks_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    path = saved(tmp_path / "base", "bert", "MaskedLM")
    inputs = tokens(24)
    targets = inputs % 3
    if kind == "masked":
        targets = torch.where(torch.rand(inputs.shape) < 0.3, inputs, -100)
        targets[:, 0] = inputs[:, 0]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    task = Task(
        loss=loss, train=(inputs, targets if kind == "masked" else targets[:, 0]),
        ignore_index=-100, outputs=VOCABULARY if kind == "masked" else 3,
    )  # fmt: skip
    run = launch(
        task=task, model={"name": name, "path": str(path), "kind": kind}, nodes=2, steps=2,
        batch=4, replicas="vmap", split="iid", out=str(tmp_path / "run"),
    )  # fmt: skip
    shape = (3, CONTEXT, VOCABULARY) if kind == "masked" else (3, 3)
    with torch.no_grad():
        scores = run.merged_model()(tokens())
    assert scores.shape == shape
    lines = run.export(tmp_path / "out")
    line = lines["transformers and peft" if name == "lora" else "transformers"]
    monkeypatch.chdir(tmp_path / "out")
    loaded = eval(line, {"peft": peft, "transformers": transformers}).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens()).logits, scores)


def test_experts_are_grouped_where_rows_run_one_by_one_with_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers.integrations import moe

    used: list[str] = []

    def watch(name: str) -> None:
        rule = getattr(moe, name)

        def watched(*given: Any) -> Any:
            used.append(name)
            return rule(*given)

        monkeypatch.setattr(moe, name, watched)

    names = "grouped_mm_experts_forward", "batched_mm_experts_forward"
    for name in names:
        watch(name)
    settings: dict[str, Any] = {
        "task": "text(context=8)", "model": "qwen2_moe(layers=1, width=16, heads=2, inside=8)",
        "nodes": 2, "batch": 2, "split": "iid", "init": "independent",
    }  # fmt: skip
    found: list[Tensor] = []
    for way, name in zip(("loop", "vmap"), names, strict=True):
        block = tiny_block(**settings, replicas=way)
        used.clear()
        block.gradient()
        assert {*used} == {name}
        found.append(block.g.clone())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)
