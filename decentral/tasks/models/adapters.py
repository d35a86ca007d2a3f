"""Adapters of low rank for models of transformers, and how both are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from decentral.blame import library
from decentral.errors import ConfigError, install_command
from decentral.registry import Count, Location, Positive, plugin
from decentral.tasks.models.pretrained import (
    CLASSES,
    Asked,
    Kind,
    Loaded,
    Pretrained,
    auto_class,
    load_model,
    quiet,
    wrap_model,
)


@plugin(
    "model",
    inputs="tokens",
    single=True,
    example="lora(config={model_type=gpt2, n_layer=1, n_embd=16, n_head=2, "
    "resid_pdrop=0, embd_pdrop=0, attn_pdrop=0})",
)
def lora(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    path: Location | None = None,
    rank: Count = 8,
    alpha: Positive | None = None,
    targets: str | list[str] = "all-linear",
    dropout: Annotated[float, Ge(0)] = 0.0,
    config: dict[str, Any] | None = None,
    kind: Kind = "causal",
    separate: bool = False,
) -> nn.Module:
    """Low-rank adapters for a model of transformers, which itself stays as it is
    (``[lm]`` extra, by peft).

    W x becomes W x + (alpha / r) B A x with B = 0 at first. Rows hold A and B, and the
    head of a ``classifier``: only these are trained, sent and merged; the base lies in
    memory once for all nodes of a worker. The mean of A times the mean of B is not the
    mean of B A: the merge rule ``lora_product`` averages products. (Hu et al., "LoRA",
    ICLR 2022.)

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        path: Folder of the base, config.json and safetensors.
        rank: Rank r of every adapter.
        alpha: Scale of the adapters, divided by ``rank``; none: twice the rank.
        targets: Layers that get one, by the ends of their names; ``all-linear`` is
            all but the output layer.
        dropout: Dropout before the adapters.
        config: Keys of the configuration of transformers, over those of the folder.
        kind: ``causal`` and ``masked`` language models, or a ``classifier``.
        separate: Whether tokens attend to their own document only.
    """
    base = load_model(Asked(input_shape, outputs, path, config or {}, kind))
    asked = {"r": rank, "lora_alpha": alpha or 2 * rank, "lora_dropout": dropout}
    base.model = _adapt(base, targets, asked)
    return wrap_model(base, separate)


def _adapt(loaded: Loaded, targets: str | list[str], asked: dict[str, Any]) -> Any:
    """Return the model behind adapters, all else frozen."""
    label, kind = loaded.asked.label, loaded.asked.kind
    try:
        import peft  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"model 'lora' comes from peft: {install_command('lm')}."
        ) from error
    _check_targets(loaded.model, targets, label)
    # What was drawn anew is in no file of the base: it travels with the adapters.
    new = sorted({name.rpartition(".")[0] for name in loaded.drawn})
    with library("model", "lora"), quiet():
        chosen = peft.LoraConfig(
            target_modules=targets, task_type=CLASSES[kind][1], bias="none",
            modules_to_save=new or None, **asked,
        )  # fmt: skip
        return peft.get_peft_model(loaded.model, chosen)


def _check_targets(model: nn.Module, targets: str | list[str], label: str) -> None:
    """Refuse targets that no layer has, and those whose weight is that of another.

    peft adds the product to a tied weight where it merges, and so to both layers.
    """
    if targets == "all-linear":
        return
    named = [targets] if isinstance(targets, str) else targets
    shared: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            shared.setdefault(id(weight), []).append(name)
    layers = [name for names in shared.values() for name in names]
    for target in named:
        fits = [n for n in layers if n == target or n.endswith(f".{target}")]
        if not fits:
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ConfigError(
                f"{label} has no layer {target!r} for targets; there are {', '.join(known)}."
            )
        for names in shared.values():
            if len(names) > 1 and set(names) & set(fits):
                raise ConfigError(
                    f"{label}: {' and '.join(names)} share one weight, and an adapter of one "
                    f"cannot be merged into it; leave {target!r} out of targets."
                )


def write_pretrained(
    model: Pretrained, to: Path, *, whole: bool = True
) -> dict[str, str]:
    """Write a model of transformers into a folder; return the lines that load it, by
    what they need.

    Adapters are written as such, and merged into the base in the folder ``merged``.

    Args:
        model: The model.
        to: The folder, which may hold other files.
        whole: Whether adapters are written merged into the base, too.
    """
    inner: Any = model.model
    load = f'transformers.{auto_class(model.kind)}.from_pretrained("{{}}")'
    with quiet():
        inner.save_pretrained(to)
        if not model.adapted:
            return {"transformers": load.format(".")}
        base = load.format(model.path or "BASE")
        if model.kind == "classifier":
            labels = inner.config.num_labels
            base = base.replace(")", f", num_labels={labels})")
        lines = {"transformers and peft": f'peft.PeftModel.from_pretrained({base}, ".")'}
        if whole:
            inner.merge_and_unload().save_pretrained(to / "merged")
            lines["transformers"] = load.format("merged")
    return lines


def average_products(adapters: Sequence[Path], to: Path) -> None:
    """Write the adapter whose product is the mean of those of other adapters.

    Its rank is the sum of theirs: A one below the other, B side by side.

    Args:
        adapters: Folders of adapters of one rank.
        to: A new folder.
    """
    to.mkdir(parents=True)
    states = [load_file(folder / "adapter_model.safetensors") for folder in adapters]
    count, joined = len(states), dict[str, Tensor]()
    for name in states[0]:
        every = [state[name] for state in states]
        if ".lora_A." in name:
            joined[name] = torch.cat(every)
        elif ".lora_B." in name:
            joined[name] = torch.cat(every, 1) / count
        else:
            joined[name] = torch.stack(every).mean(0)
    save_file(joined, to / "adapter_model.safetensors", {"format": "pt"})
    about = json.loads((adapters[0] / "adapter_config.json").read_text("utf-8"))
    # The same scale, alpha / r, at a rank that is so many times larger.
    about |= {key: about[key] * count for key in ("r", "lora_alpha")}
    text = json.dumps(about, indent=2) + "\n"
    (to / "adapter_config.json").write_text(text, encoding="utf-8")
