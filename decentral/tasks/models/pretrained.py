"""Models of transformers as they lie in a folder, weights included.

Nothing of a folder is run: no code that it brings, and no pickles. What it does not
hold is not drawn at random without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decentral.blame import library
from decentral.errors import ConfigError, install_command
from decentral.registry import Location, plugin
from decentral.tasks.models.hub import Scores
from decentral.userfile import place_of

Kind = Literal["causal", "masked", "classifier"]

#: What transformers and peft call models of each kind.
CLASSES: Mapping[Kind, tuple[str, str]] = {
    "causal": ("AutoModelForCausalLM", "CAUSAL_LM"),
    "masked": ("AutoModelForMaskedLM", "FEATURE_EXTRACTION"),
    "classifier": ("AutoModelForSequenceClassification", "SEQ_CLS"),
}

#: What belongs to a head although its name begins with that of the base.
_HEAD = "pooler"


def auto_class(kind: Kind) -> str:
    """Return what transformers calls the class that loads models of a kind."""
    return CLASSES[kind][0]


class Pretrained(Scores):
    """A model of transformers as a function from tokens to scores; ``notes`` say how
    it was loaded.
    """

    def __init__(
        self, model: nn.Module, kind: Kind, path: str | None, notes: tuple[str, ...]
    ) -> None:
        """Wrap a model.

        Args:
            model: What transformers made.
            kind: What it predicts.
            path: The folder of its weights; none: they were drawn.
            notes: What should be said of it.
        """
        super().__init__(model)
        self.kind: Kind = kind
        self.path, self.notes = path, notes

    @property
    def adapted(self) -> bool:
        """Whether it is a frozen base with adapters."""
        return hasattr(self.model, "peft_config")


class Masking(Pretrained):
    """An encoder: nothing attends to what is padding."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores: [B, T, V], or [B, C] of a classifier."""
        pad = getattr(self.model.config, "pad_token_id", None)
        if pad is None:
            return self.model(input_ids=tokens).logits
        # Four dimensions and real numbers: of a mask of two, transformers asks by
        # ``item`` whether it masks anything, which vmap cannot answer.
        dtype = next(self.model.parameters()).dtype
        hidden = (tokens == pad)[:, None, None, :].to(dtype) * torch.finfo(dtype).min
        mask = hidden.expand(-1, -1, tokens.shape[1], -1)
        return self.model(input_ids=tokens, attention_mask=mask).logits


class Separate(Pretrained):
    """A causal model to which every document of a sample is one of its own."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores of the next token, [B, T, V].

        A token attends to what precedes it in its own document. Positions go on from
        one document to the next: under vmap they cannot begin anew.
        """
        config: Any = self.model.config
        ends = tokens.eq(config.eos_token_id).long()
        # The token that ends a document belongs to it.
        document = ends.cumsum(1) - ends
        same = document[:, :, None] == document[:, None, :]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        seen = same & (places[:, None] >= places[None, :])
        dtype = next(self.model.parameters()).dtype
        mask = (~seen)[:, None].to(dtype) * torch.finfo(dtype).min
        return self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits


@plugin(
    "model",
    inputs="tokens",
    single=True,
    example="hf(config={model_type=gpt2, n_layer=1, n_embd=16, n_head=2, "
    "resid_pdrop=0, embd_pdrop=0, attn_pdrop=0})",
)
def hf(
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    path: Location | None = None,
    config: dict[str, Any] | None = None,
    kind: Kind = "causal",
    separate: bool = False,
) -> nn.Module:
    """Any model of transformers (``[lm]`` extra), with its weights from a folder.

    ``path`` is a folder as ``save_pretrained`` writes it: ``config.json`` and
    ``*.safetensors``. Pickles and models that bring code of their own are refused,
    and so are weights that are missing, or more than the model has; only the head of
    a ``classifier`` is drawn anew where there is none. ``config`` holds keys that win
    over those of the folder; without a folder it says by ``model_type`` what is
    drawn anew.

    Args:
        input_shape: Shape of one input.
        outputs: Outputs of the model: classes, or tokens.
        path: Folder of config.json and safetensors.
        config: Keys of the configuration of transformers.
        kind: ``causal`` and ``masked`` language models, or a ``classifier`` of
            sequences.
        separate: Whether tokens of a causal model attend to their own document only;
            the end of one is the ``eos_token_id`` of its configuration.
    """
    return wrap_model(
        load_model(Asked(input_shape, outputs, path, config or {}, kind)), separate
    )


# --- loading ----------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A model as the run asks for it."""

    input_shape: tuple[int, ...]
    outputs: int
    path: str | None
    config: Mapping[str, Any]
    kind: Kind

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"model: {self.path or self.config.get('model_type')}"


@dataclass
class Loaded:
    """What transformers made, and what was said of it."""

    model: Any
    asked: Asked
    drawn: list[str]
    notes: tuple[str, ...]


def wrap_model(loaded: Loaded, separate: bool) -> Pretrained:
    """Return a model as runs call it.

    Args:
        loaded: The model, and what was asked for.
        separate: Whether tokens attend to their own document only.
    """
    kind, made = loaded.asked.kind, Pretrained
    config = loaded.model.config
    if separate and (kind != "causal" or not isinstance(config.eos_token_id, int)):
        raise ConfigError(
            f"{loaded.asked.label}: separate=true is for causal models whose configuration has an "
            "eos_token_id, by which documents end; leave it out, or give config={eos_token_id=0}."
        )
    if separate:
        made = Separate
    elif kind == "masked" or (kind == "classifier" and _encodes(config)):
        made = Masking
    return made(loaded.model, kind, loaded.asked.path, loaded.notes)


def _encodes(config: Any) -> bool:
    """Whether tokens also attend to those that follow."""
    from transformers.models.auto.modeling_auto import (  # pyright: ignore[reportMissingImports]
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_model(asked: Asked) -> Loaded:
    """Return the model that a folder or a configuration describes."""
    if asked.path is None and "model_type" not in asked.config:
        raise ConfigError(
            "model: give path=FOLDER with config.json and safetensors, or config= with a "
            "model_type, such as {model_type=gpt2, n_layer=2}."
        )
    if asked.path is not None:
        check_folder(asked.path)
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"this model comes from transformers: {install_command('lm')}."
        ) from error
    with library("model", "hf"), quiet():
        config = _config(transformers, asked)
        builder = getattr(transformers, auto_class(asked.kind))
        # Where only shapes are asked for there is nothing to load into.
        if asked.path is None or torch.get_default_device().type == "meta":
            return Loaded(builder.from_config(config), asked, [], ())
        model, info = builder.from_pretrained(
            asked.path, config=config, dtype="auto", use_safetensors=True,
            trust_remote_code=False, local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    drawn = _check_loaded(asked, model, info)
    return Loaded(model, asked, drawn, _notes(asked, model, drawn))


def check_folder(path: str) -> None:
    """Refuse a folder that holds no model of transformers as safetensors.

    Args:
        path: The folder.
    """
    place = place_of(path)
    if not (place / "config.json").is_file():
        if (place / "adapter_config.json").is_file():
            raise ConfigError(
                f"model: {path} holds an adapter, not a model; load it with peft, write "
                "merge_and_unload() by save_pretrained, and name that folder."
            )
        raise ConfigError(
            f"model: {path} has no config.json; path= must be a folder as save_pretrained of "
            "transformers writes it."
        )
    if not any(place.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in place.glob("*.bin"))[:2]) or "no weights"
        raise ConfigError(
            f"model: {path} holds {found} and no safetensors; pickles are not loaded: convert it "
            "by save_pretrained of transformers, where you trust it."
        )


def _config(transformers: Any, asked: Asked) -> Any:
    given = {"use_cache": False, **asked.config}
    if asked.kind == "classifier":
        given["num_labels"] = asked.outputs
    if asked.path is None:
        # Their defaults are tokens of a large vocabulary, which the task's may not
        # have.
        lowest = {k: None for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
        sized = {} if asked.kind == "classifier" else {"vocab_size": asked.outputs}
        config = transformers.AutoConfig.for_model(**{**lowest, **sized, **given})
    else:
        config = transformers.AutoConfig.from_pretrained(
            asked.path, trust_remote_code=False, local_files_only=True, **given
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"{asked.label} encodes and decodes; choose a model of one stack of layers."
        )
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and most < asked.input_shape[0]:
        raise ConfigError(
            f"{asked.label}: of {most} positions cannot read {asked.input_shape[0]} tokens; lower "
            f"the task's context to {most}."
        )
    if asked.kind != "classifier" and config.vocab_size < asked.outputs:
        raise ConfigError(
            f"{asked.label} knows {config.vocab_size} tokens, and the task has {asked.outputs}; "
            "give the task the tokenizer of the model: task.tokenizer=FOLDER."
        )
    if asked.path is not None and asked.kind != "classifier":
        _check_tokenizer(asked)
    return config


def _check_tokenizer(asked: Asked) -> None:
    """Refuse tokens of another tokenizer than that beside the weights."""
    file = place_of(asked.path or "") / "tokenizer.json"
    if not file.is_file():
        return
    import tokenizers  # pyright: ignore[reportMissingImports]

    theirs: int = tokenizers.Tokenizer.from_file(str(file)).get_vocab_size()
    if theirs != asked.outputs:
        raise ConfigError(
            f"{asked.label}: its tokenizer has {theirs} tokens, and the task {asked.outputs}; give "
            f"the task this tokenizer: task.tokenizer={asked.path}."
        )


def _check_loaded(asked: Asked, model: Any, info: Mapping[str, Any]) -> list[str]:
    """Return the tensors that were drawn anew, which only a new head may be."""
    missing, more = (sorted(info[k]) for k in ("missing_keys", "unexpected_keys"))
    inside = f"{model.base_model_prefix}."

    def of_head(name: str) -> bool:
        return not name.startswith(inside) or f".{_HEAD}." in name

    if asked.kind == "classifier":
        wrong = [name for name in (*missing, *more) if not of_head(name)]
        # A file of the base alone has names without its prefix.
        wrong = [] if not missing else wrong
    else:
        wrong = [*missing, *more]
    if wrong:
        few = ", ".join(wrong[:3]) + (
            f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        )
        lacks = (
            "has no" if wrong[0] in missing else "has, beyond what the model is made of,"
        )
        raise ConfigError(
            f"{asked.label} {lacks} {few}; is it a model of kind={asked.kind}? Its config.json "
            "must be that of its weights."
        )
    return missing


def _notes(asked: Asked, model: Any, drawn: list[str]) -> tuple[str, ...]:
    """Say what type the weights are of, and what of the model was drawn anew."""
    kind = str(model.dtype).removeprefix("torch.")
    found = [
        f"{asked.label}: weights are {kind}; the run computes in its dtype, and exports "
        "write that."
    ] * (kind != "float32")
    if drawn:
        found.append(f"{asked.label}: drawn anew, {', '.join(drawn[:4])}.")
    return tuple(found)


@contextmanager
def quiet() -> Generator[None]:
    """Keep transformers from printing bars and tables: what matters, we say."""
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
