"""What can be wrong with models of transformers: folders, sizes, adapters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from decentral import launch
from decentral.registry import build

TINY: dict[str, Any] = {
    "model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 8,
}  # fmt: skip


def hf(name: str = "hf", outputs: int = 16, **settings: Any) -> None:
    build("model", {"name": name, **settings})((8,), outputs)


def folder(name: str, *files: str) -> str:
    """Make a folder with files of these names, and nothing in them."""
    Path(name).mkdir(exist_ok=True)
    for file in files:
        (Path(name) / file).write_text("{}")
    return name


def base() -> str:
    """Write a tiny model, once."""
    path = Path("base")
    if not path.is_dir():
        import transformers

        given = {**TINY, "vocab_size": 16, "bos_token_id": None, "eos_token_id": None}
        config = transformers.AutoConfig.for_model(**given)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return str(path)


def without(module: str, name: str) -> None:
    base()
    with mock.patch.dict(sys.modules, {module: None}):
        hf(name, path="base")


def with_more() -> None:
    import transformers
    from safetensors.torch import load_file, save_file

    path = Path("more")
    transformers.AutoModelForCausalLM.from_pretrained(base()).save_pretrained(path)
    weights = load_file(path / "model.safetensors") | {"extra": torch.ones(2)}
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    hf(path="more")


def other_tokenizer() -> None:
    import tokenizers

    path = Path(base())
    file = path / "tokenizer.json"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a"))
    made.save(str(file))
    try:
        hf(path=str(path))
    finally:
        file.unlink()


def texts(name: str, words: str, **settings: Any) -> None:
    Path(name).write_text(words)
    given = {"name": "text", "path": name, "cache": "cache", **settings}
    build("task", given)()


def tokenizer(name: str, words: str | None, end: str = "") -> str:
    """Write a tokenizer that knows a word, into a folder."""
    path = Path(folder(name))
    if words is None:
        return name
    if words:
        import tokenizers

        known = tokenizers.models.WordLevel({words: 0, "?": 1})
        made = tokenizers.Tokenizer(
            tokenizers.models.BPE() if words == "nothing" else known
        )
        made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        if words != "nothing":
            made.model.unk_token = "?"
        made.save(str(path / "tokenizer.json"))
    else:
        (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(f'{{"eos_token": "{end}"}}')
    return name


def tokenized(*given: Any, **settings: Any) -> None:
    texts("words.txt", "some words " * 3000, tokenizer=tokenizer(*given), **settings)


ROWS = '{"text": "some", "kind": "a", "one": 1}\n{"text": "?", "kind": "b", "one": 1}\n'


def labelled(name: str = "ended", end: str = "some", label: str = "kind") -> None:
    texts("rows.jsonl", ROWS, tokenizer=tokenizer(name, "some", end), label=label)


def other_base() -> None:
    """Merge adapters whose base was written anew."""
    from safetensors.torch import load_file, save_file

    path = base()
    task = "text(path=base.txt, context=8, cache=cache, prompts=[])"
    Path("base.txt").write_text("some words " * 3000)
    model = {"name": "lora", "path": path, "rank": 1}
    run = launch(task=task, model=model, nodes=2, steps=1, out="based", split="iid")
    file = Path(path) / "model.safetensors"
    kept = file.read_bytes()
    try:
        state = load_file(file)
        save_file({k: v + 1 for k, v in state.items()}, file, {"format": "pt"})
        run.merged_model()
    finally:
        file.write_bytes(kept)


def lacking(module: str, words: str = "", name: str = "words.txt", **given: Any) -> None:
    with mock.patch.dict(sys.modules, {module: None}):
        texts(name, words, **given)


MODELS: dict[str, Callable[[], Any]] = {
    "hf: no folder and no type": hf,
    "hf: no configuration": lambda: hf(path=folder("no model")),
    "hf: an adapter": lambda: hf(path=folder("adapter only", "adapter_config.json")),
    "hf: pickles": lambda: hf(path=folder("pickled", "config.json", "weights.bin")),
    "hf: no transformers": lambda: without("transformers", "hf"),
    "hf: encodes and decodes": lambda: hf(config={"model_type": "t5"}),
    "hf: too few positions": lambda: hf(config={**TINY, "n_positions": 4}),
    "hf: too few tokens": lambda: hf(config={**TINY, "vocab_size": 4}),
    "hf: more than the model has": with_more,
    "hf: tokens of another tokenizer": other_tokenizer,
    "hf: no end of documents": lambda: hf(config=TINY, separate=True),
    "tokenizer: none in the folder": lambda: tokenized("none", None),
    "tokenizer: damaged": lambda: tokenized("damaged tokenizer", ""),
    "tokenizer: knows nothing": lambda: tokenized("empty tokenizer", "nothing"),
    "tokenizer: no end": lambda: tokenized("endless", "some", "<no>", fit="pad"),
    "tokenizer: documents of a token": lambda: texts(
        "short.jsonl",
        '{"text": ""}',
        fit="pad",
        tokenizer=tokenizer("ended", "some", "some"),
    ),
    "tokenizer: nothing that reads it": lambda: lacking(
        "tokenizers", tokenizer=folder("unread")
    ),
    "tables: nothing that reads them": lambda: lacking("pyarrow", name="unread.parquet"),
    "tables: damaged": lambda: texts("damaged.jsonl", '{"text": "a"}\n{"tex'),
    "tables: no objects": lambda: texts("numbers.jsonl", "3"),
    "tables: no such column": lambda: texts("other.jsonl", '{"story": "words"}'),
    "tables: no such domain": lambda: texts(
        "domain.jsonl", '{"text": "words"}', domain="kind"
    ),
    "prompts: of no token": lambda: tokenized("ended", "some", "some", prompts=[""]),
    "prompts: an unknown character": lambda: texts(
        "some.txt", "some words " * 3000, prompts=["Zebra"]
    ),
    "masked: nothing hides": lambda: tokenized("ended", "some", "some", masked=0.1),
    "label: no tokenizer": lambda: texts("rows.jsonl", ROWS, label="kind"),
    "label: of no table": lambda: tokenized("ended", "some", "some", label="kind"),
    "label: no such column": lambda: labelled(label="kinds"),
    "label: one class": lambda: labelled(label="one"),
    "label: nothing fills up": lambda: labelled("unfilled", ""),
    "lora: another base": other_base,
    "lora: no peft": lambda: without("peft", "lora"),
    "lora: no such layer": lambda: hf("lora", path=base(), targets=["q_proj"]),
    "lora: a shared weight": lambda: hf("lora", path=base(), targets=["lm_head"]),
}
