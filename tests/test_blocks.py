"""The blocks of a network, and learning rates by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_block, tiny_setup
from torch import nn

from decentral import ConfigError
from decentral.metrics import Snapshot
from decentral.optim.blocks import RATIOS, Blockwise, block_groups, block_of
from decentral.registry import find
from decentral.schedules import Progress
from decentral.schedules.learning_rate import LearningRate
from decentral.tasks import Task

#: Parameters by model, as transformers, torchvision and torch.nn call them.
NAMES: dict[str, dict[str, str]] = {
    "GPT-2": {
        "embedding": "transformer.wte.weight transformer.wpe.weight",
        "norm": "transformer.h.0.ln_1.weight transformer.h.11.ln_2.bias transformer.ln_f.weight",
        "qkv": "transformer.h.0.attn.c_attn.weight transformer.h.0.attn.c_attn.bias",
        "vo": "transformer.h.0.attn.c_proj.weight",
        "ffn": "transformer.h.0.mlp.c_fc.weight transformer.h.0.mlp.c_proj.bias",
        "head": "lm_head.weight",
    },
    "LLaMA, and our gpt": {
        "embedding": "model.embed_tokens.weight embed_positions.weight",
        "qk": "model.layers.0.self_attn.q_proj.weight layers.1.self_attn.k_proj.weight",
        "vo": "model.layers.0.self_attn.v_proj.weight model.layers.0.self_attn.o_proj.weight",
        "ffn": "model.layers.0.mlp.gate_proj.weight layers.1.mlp.up_proj.weight "
        "model.layers.0.mlp.down_proj.weight",
        "norm": "model.layers.0.input_layernorm.weight norm.weight model.norm.weight "
        "model.layers.0.post_attention_layernorm.weight model.layers.0.self_attn.q_norm.weight",
        "head": "lm_head.weight",
    },
    "Qwen2-MoE": {
        "qk": "model.layers.0.self_attn.q_proj.bias",
        "router": "model.layers.0.mlp.gate.weight model.layers.0.mlp.shared_expert_gate.weight",
        "experts": "model.layers.0.mlp.experts.7.gate_proj.weight "
        "model.layers.0.mlp.experts.gate_up_proj model.layers.0.mlp.experts.down_proj "
        "model.layers.0.mlp.shared_expert.up_proj.weight",
    },
    "ViT": {
        "embedding": "vit.embeddings.cls_token vit.embeddings.patch_embeddings.projection.weight "
        "vit.embeddings.position_embeddings class_token conv_proj.weight pos_embed "
        "encoder.pos_embedding patch_embed.proj.weight",
        "qk": "vit.encoder.layer.0.attention.attention.query.weight "
        "vit.encoder.layer.0.attention.attention.key.bias",
        "vo": "vit.encoder.layer.0.attention.attention.value.weight "
        "vit.encoder.layer.0.attention.output.dense.weight blocks.0.attn.proj.weight",
        "qkv": "blocks.0.attn.qkv.weight",
        "ffn": "vit.encoder.layer.0.intermediate.dense.weight "
        "vit.encoder.layer.0.output.dense.weight blocks.0.mlp.fc1.weight",
        "norm": "vit.encoder.layer.0.layernorm_before.weight blocks.0.norm1.weight",
        "head": "classifier.weight heads.head.weight head.bias",
    },
    "torch.nn": {
        "qkv": "layers.0.self_attn.in_proj_weight self_attn.in_proj_bias",
        "vo": "layers.0.self_attn.out_proj.weight",
        "ffn": "layers.0.linear1.weight layers.0.linear2.bias",
    },
}
CASES = [
    (model, name, block)
    for model, blocks in NAMES.items()
    for block, names in blocks.items()
    for name in names.split()
]


@pytest.mark.parametrize(("model", "name", "block"), CASES)
def test_the_name_of_a_parameter_tells_its_block(
    model: str, name: str, block: str
) -> None:
    assert block_of(name) == block


@pytest.mark.parametrize(
    "name", ["1.weight", "x", "0.bias", "body.2.weight", "conv1.weight"]
)
def test_a_name_that_tells_nothing_is_of_no_block(name: str) -> None:
    assert block_of(name) is None


def configurations() -> dict[str, Any]:
    """Return small models of transformers, built on no device."""
    library = pytest.importorskip(
        "transformers", reason="needs transformers: pip install '.[lm]'"
    )
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    inner = {"intermediate_size": 32, "num_key_value_heads": 2, "vocab_size": 40}
    moe = {
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "num_experts": 4,
    }
    return {
        "gpt2": library.GPT2LMHeadModel(
            library.GPT2Config(
                n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=8
            )
        ),
        "llama": library.LlamaForCausalLM(library.LlamaConfig(**size, **inner)),
        "qwen2-moe": library.Qwen2MoeForCausalLM(
            library.Qwen2MoeConfig(**size, **inner, **moe, num_experts_per_tok=2)
        ),
        "vit": library.ViTForImageClassification(
            library.ViTConfig(**size, intermediate_size=32, image_size=8, patch_size=4)
        ),
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2-moe", "vit"])
def test_every_parameter_of_a_transformer_is_of_a_known_block(kind: str) -> None:
    groups = block_groups(configurations()[kind], lr=1.0)
    assert {"embedding", "norm", "vo"} <= {group["block"] for group in groups}
    assert all(group["lr"] == RATIOS[group["block"]] for group in groups)


class Tiny(nn.Module):
    """One parameter of every block, scalars all."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("embed", "q_proj", "v_proj", "mlp", "norm", "head"):
            self.register_parameter(name, nn.Parameter(torch.ones(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] + sum(p.sum() for p in self.parameters())


def tiny_task() -> Task:
    pair = torch.zeros(8, 2), torch.zeros(8, 1)
    return Task(model=Tiny, loss=nn.functional.mse_loss, train=pair, test=pair)


def test_groups_hold_every_parameter_once_and_work_with_any_optimizer() -> None:
    model = Tiny()
    groups = block_groups(model, lr=0.1, ratios={"qk": 3, "norm": 0.5})
    rates = {group["block"]: group["lr"] for group in groups}
    assert rates == pytest.approx(
        {"embedding": 1.0, "qk": 0.3, "vo": 0.4, "ffn": 0.6, "norm": 0.05, "head": 0.1}
    )
    optimizer = torch.optim.SGD(groups)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = {block_of(name): 1 - p[0].item() for name, p in model.named_parameters()}
    assert moved == pytest.approx(rates)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "sgd", "torch.optim.RAdam"])
def test_in_a_run_every_block_has_its_rate_with_any_optimizer(optimizer: str) -> None:
    """One step at a ratio of r is one step at r times the rate."""
    settings: dict[str, Any] = {
        "task": tiny_task(), "model": "mlp", "split": "iid", "algorithm": "local", "steps": 4,
        "dtype": "float64", "learning_rate": 0.01,
    }  # fmt: skip
    plain = {"name": optimizer, "weight_decay": 0.0}
    blocks = [
        tiny_block(**settings, optimizer=o) for o in (plain, {**plain, "blockwise": True})
    ]
    starts = [block.rows.clone() for block in blocks]
    for block in blocks:
        block.setup.algorithm(block, None)
    moved = [
        {
            e.name: (block.rows - start)[:, e.start : e.stop]
            for e in block.setup.layout.parameters
        }
        for block, start in zip(blocks, starts, strict=True)
    ]
    for name, change in moved[0].items():
        ratio = RATIOS[block_of(name) or ""]
        torch.testing.assert_close(moved[1][name], ratio * change, rtol=1e-9, atol=1e-12)


def test_adam_mini_takes_names_and_rates_by_block() -> None:
    """A package of its own, by its dotted name: one group per parameter, named by it."""
    pytest.importorskip(
        "adam_mini", reason="needs Adam-mini: pip install adam-mini==1.1.1"
    )
    settings = {"model": "gpt(layers=1, width=8, heads=2)", "task": "text", "nodes": 2}
    mini = {"name": "adam_mini.Adam_mini", "dim": 8, "n_heads": 2, "verbose": False}
    block = tiny_block(
        **settings, optimizer={**mini, "blockwise": "qk=3"}, learning_rate=0.01
    )
    before = block.rows.clone()
    block.setup.algorithm(block, None)
    assert not torch.equal(block.rows, before)
    groups = {
        group["name"]: group["lr"] for group in block.optimizer.instances[1].param_groups
    }
    assert groups["layers.0.self_attn.q_proj.weight"] == pytest.approx(0.03)
    assert groups["layers.0.mlp.up_proj.weight"] == pytest.approx(0.06)


@pytest.mark.parametrize(
    "rule", ["cosine(floor=0.05)", "wsd(floor=0.1)", "cosine", "constant"]
)
def test_all_rates_meet_at_the_floor(rule: str) -> None:
    """At the peak they differ by the ratio, at the end not at all; in between linearly."""
    rate = LearningRate.make(rule, 0.2)
    start, end = Progress(0, 100), Progress(100, 100)
    for ratio in (0.5, 1.0, 8.0):
        assert rate(start, ratio, rate.floor) == pytest.approx(ratio * rate(start))
        if rate.floor:
            assert rate(end, ratio, rate.floor) == pytest.approx(0.2 * rate.floor)
    middle = Progress(60, 100)
    rates = [rate(middle, ratio, rate.floor) for ratio in (1.0, 2.0, 3.0)]
    assert rates[0] == pytest.approx(rate(middle))
    assert rates[2] - rates[1] == pytest.approx(rates[1] - rates[0])


def test_rates_by_block_stay_fall_and_decay_for_a_third_each_under_wsd() -> None:
    """The published schedule: the peak times the ratio until T/3, down to the base
    rate at 2T/3, and together to a tenth of it at T.
    """
    rate = LearningRate.make(f"wsd(lr=0.2, floor=0.1, decay={1 / 3})", 1.0)
    for ratio in (0.5, 1.0, 8.0):
        said = [rate(Progress(step, 300), ratio, rate.floor) / 0.2 for step in range(301)]
        wanted = np.interp(range(301), [0, 100, 200, 300], [ratio, ratio, 1.0, 0.1])
        assert said == pytest.approx(wanted.tolist())


def test_the_warm_up_keeps_its_length_for_every_ratio() -> None:
    rate = LearningRate.make("constant(lr=1.0, warmup=10%)", 1.0)
    early, late = Progress(4, 100), Progress(50, 100)
    assert rate(early, 4.0) == pytest.approx(2.0)
    assert rate(late, 4.0) == pytest.approx(4.0)


def test_a_floor_of_ones_own_replaces_the_schedules() -> None:
    settings = {
        "task": tiny_task(),
        "split": "iid",
        "learning_rate": "cosine(lr=0.1, floor=0.5)",
    }
    for floor, wanted in ((None, 0.5), (0.2, 0.2)):
        ratios = {} if floor is None else {"floor": floor}
        block = tiny_block(
            **settings, optimizer={"name": "sgd", "blockwise": ratios or True}, steps=10
        )
        block.stand_at(10, 0)
        lowest = 0.2 + (8 - 0.2) * (0.5 - 0.2) / 0.8 if floor else wanted
        rate = block.setup.rates(block.progress, block.optimizer.blockwise)
        assert callable(rate)
        assert rate(8.0) == pytest.approx(0.1 * lowest)


keys = st.sampled_from([*RATIOS, "layers.0.*", "*.gate.weight"])
positive = st.floats(0.125, 64.0).map(lambda x: float(f"{x:g}"))


@given(st.dictionaries(keys, positive, max_size=4), st.none() | st.floats(0, 1))
def test_ratios_are_written_as_they_are_read(
    ratios: dict[str, float], floor: float | None
) -> None:
    given = dict(ratios) if floor is None else {**ratios, "floor": float(f"{floor:g}")}
    read = Blockwise.parse(given)
    assert read is not None
    assert Blockwise.parse(str(read)) == read
    assert {key: read.ratios[key] for key in ratios} == ratios


def test_a_configuration_says_every_ratio_and_reproduces_them() -> None:
    setup = tiny_setup(task=tiny_task(), split="iid", optimizer="adamw(blockwise='qk=2')")
    spec = setup.optimizer.spec()
    again = tiny_setup(task=tiny_task(), split="iid", optimizer=spec)
    assert again.optimizer.common == setup.optimizer.common
    assert "qk=2," in spec["blockwise"]
    assert "embedding=10" in spec["blockwise"]


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ("kq=8", "Did you mean 'qk'"),
        ("qk=0", "above 0"),
        ("qk", "cannot read"),
        ([1, 2], "cannot read"),
        ("floor=2", "between 0 and 1"),
        (True, "6 parameters are of no known block: 1.weight"),
        ("1.*=2, 3.*=1, 5.*=1, 7.*=1", "no parameter is called '7.*'"),
    ],
)
def test_what_cannot_work_is_refused(ratios: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        tiny_setup(
            model="mlp(hidden=[8,8])", optimizer={"name": "adamw", "blockwise": ratios}
        )


# --- sharpness ------------------------------------------------------------------------------------


class Scores(nn.Module):
    """Two classes, whose scores are parameters of two blocks: softmax([a, b]) for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Parameter(torch.tensor(0.7))
        self.head = nn.Parameter(torch.tensor(-0.2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.q_proj, self.head]).expand(len(x), 2)


def scores_block() -> Snapshot:
    from decentral.loop.measure import Evaluator

    pair = torch.zeros(64, 1), torch.arange(64) % 2
    task = Task(model=Scores, loss=nn.functional.cross_entropy, train=pair, test=pair)
    block = tiny_block(task=task, split="iid", replicas="loop", dtype="float64")
    return Evaluator(block).snapshot(complete=True)


def test_sharpness_is_the_fisher_information_of_the_models_own_predictions() -> None:
    """For scores as parameters it is p (1 - p), whatever the labels; 32 draws come near."""
    found = find("metric", "sharpness").target(scores_block())
    p = torch.tensor([0.7, -0.2]).softmax(0)[0].item()
    assert found.keys() == {"sharpness/qk", "sharpness/head"}
    for value in found.values():
        assert value == pytest.approx(p * (1 - p), rel=0.35)
    assert found["sharpness/qk"] == pytest.approx(found["sharpness/head"], rel=1e-6)


def test_sharpness_is_drawn_from_predictions_not_from_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snapshot = scores_block()
    first = find("metric", "sharpness").target(snapshot)
    snapshot.samples.targets.zero_()
    assert find("metric", "sharpness").target(snapshot) == first
    monkeypatch.setattr("decentral.metrics.curvature.SAMPLES", 4)
    assert find("metric", "sharpness").target(snapshot) != first


def test_a_task_without_classes_has_no_sharpness() -> None:
    block = tiny_block(task="quadratic", metrics=["sharpness", "loss"])
    from decentral.loop.measure import Evaluator

    assert not any("sharpness" in key for key in Evaluator(block)(complete=True))
