"""The blocks of a network, by the names of its parameters, and a learning rate for
each.

Names are those of GPT-2, LLaMA, Qwen2-MoE and ViT in ``transformers``, of
``torch.nn`` and of torchvision, and of the networks of this package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from decentral.errors import ConfigError, nearest

#: Learning rates by block, as multiples of the base rate (Wang et al., "The
#: sharpness disparity principle in transformers", 2025). A projection of query, key
#: and value in one takes the lower of two; experts are feed-forward, routers and
#: the head keep the base rate.
RATIOS: Mapping[str, float] = MappingProxyType(
    {
        "embedding": 10.0, "qk": 8.0, "vo": 4.0, "qkv": 4.0, "ffn": 6.0, "experts": 6.0,
        "router": 1.0, "norm": 1.0, "head": 1.0,
    }
)  # fmt: skip

#: The first pattern found in a name, with a dot around it, tells the block.
_PATTERNS = {
    "norm": r"\.(\w*norm\w*|ln_?\w{0,3})\.",
    "head": r"\.(lm_head|heads?|classifier|score|unembed\w*|readout)\.",
    "embedding": r"\.(\w*emb(ed\w*|eddings?)?|wte|wpe|(cls|class)_token|conv_proj|positions?)\.",
    "router": r"\.(router|\w*expert_gate|(mlp|moe|block_sparse_moe)\.gate)\.",
    "experts": r"\.\w*experts?\.",
    "qkv": r"\.(c_attn|in_proj(_weight|_bias)?|w?qkv(_proj)?|query_key_value)\.",
    "qk": r"\.(w?[qk]|[qk]_?(proj|lin)|to_[qk]|query|key)\.",
    "vo": r"\.(w?[vo]|[vo]_?(proj|lin)|to_(v|out)|value|out_(proj|lin))\."
    r"|\.\w*att(n|ention)\.(\w+\.)*(c_proj|proj|dense|output)\.",
    "ffn": r"\.(mlp|ffn?|feed_?forward|intermediate|fc_?[12]|linear[12]|(up|down|gate)_proj)\."
    r"|\.output\.dense\.",
}
_RULES = {block: re.compile(text, re.IGNORECASE) for block, text in _PATTERNS.items()}


def block_of(name: str) -> str | None:
    """Return the block of a parameter, by its name, or None where it tells nothing.

    >>> block_of("model.layers.0.self_attn.q_proj.weight"), block_of("3.bias")
    ('qk', None)
    """
    # So that patterns match whole parts of a name, the first and the last included.
    dotted = f".{name}."
    return next((block for block, rule in _RULES.items() if rule.search(dotted)), None)


@dataclass(frozen=True)
class Blockwise:
    """Learning rates by block: a ratio to the base rate for each, and the floor
    they share.

    Keys are blocks or patterns of parameter names (``"1.*"``), which win. Every
    rate decays to ``floor`` times the base rate, None: as the learning-rate
    schedule says.
    """

    IN_WORDS: ClassVar[str] = "true, or ratios such as 'qk=8, vo=4'"

    ratios: Mapping[str, float] = field(default_factory=lambda: RATIOS)
    floor: float | None = None

    def __str__(self) -> str:
        """Write the ratios as a user would."""
        floor = {} if self.floor is None else {"floor": self.floor}
        return ", ".join(
            f"{key}={value:g}" for key, value in {**self.ratios, **floor}.items()
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> object:
        """Let pydantic read ratios from configurations."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(cls.parse)

    @staticmethod
    def parse(value: object) -> Blockwise | None:
        """Read ``true``, a mapping of ratios, or ``"qk=8, vo=4"``; what is not said
        is as usual.

        >>> Blockwise.parse("qk=2, floor=0.05").ratios["qk"]
        2.0
        """
        if value is None or value is False or isinstance(value, Blockwise):
            return value or None
        given = {} if value is True else _pairs(value)
        floor = given.pop("floor", None)
        if floor is not None and not 0 <= floor <= 1:
            raise ConfigError(f"floor = {floor:g}: it must be between 0 and 1.")
        for key, ratio in given.items():
            if key not in RATIOS and not _is_pattern(key):
                raise ConfigError(
                    f"unknown block {key!r}.{nearest(key, RATIOS)} Blocks: "
                    f"{', '.join(RATIOS)}; or give a pattern of names, such as 'layers.0.*'."
                )
            if ratio <= 0:
                raise ConfigError(f"{key} = {ratio:g}: a ratio must be above 0.")
        return Blockwise({**RATIOS, **given}, floor)

    def key(self, name: str) -> str | None:
        """Return the pattern or the block whose ratio a parameter takes, None if
        there is none.
        """
        patterns = (
            key for key in self.ratios if _is_pattern(key) and fnmatchcase(name, key)
        )
        # Patterns of the user's first: they are there to correct what names
        # suggest.
        return next(patterns, None) or block_of(name)

    def ratio(self, name: str) -> float:
        """Return the ratio of a parameter, which must be of a known block."""
        return self.ratios[self.key(name) or ""]

    def check(self, names: Iterable[str]) -> None:
        """Refuse a model with parameters of no known block, and list them."""
        names = list(names)
        if strange := [name for name in names if self.key(name) is None]:
            listed = ", ".join(strange[:8]) + (", ..." if len(strange) > 8 else "")
            raise ConfigError(
                f"blockwise: {len(strange)} parameters are of no known block: {listed}; "
                f"give them ratios by patterns of their names, such as '{strange[0]}=1'."
            )
        for pattern in filter(_is_pattern, self.ratios):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(
                    f"blockwise: no parameter is called {pattern!r}."
                    f"{nearest(pattern, names)} `decentral show blocks` lists them."
                )

    def group(self, name: str, parameter: nn.Parameter) -> int:
        """Return the index of a parameter's group, for a ``Layout``."""
        return list(self.ratios).index(self.key(name) or "")


def _is_pattern(key: str) -> bool:
    return "*" in key or "." in key


def _pairs(value: object) -> dict[str, float]:
    """Read a mapping of numbers, or text that spells one."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",") if part.strip()]
        found: Any = {key.strip(): number for key, _, number in parts}
    else:
        found = value
    try:
        return {str(key): float(number) for key, number in dict(found).items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot read {value!r}; write true, or ratios like 'qk=8, vo=4'."
        ) from error


def block_groups(
    model: nn.Module, lr: float, ratios: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups with a learning rate by block, for any optimizer of
    torch.

    Groups carry ``block`` and ``ratio``; ratios that are not given are as
    published. Raises ConfigError for parameters of no known block.

    Args:
        model: The module whose parameters are grouped.
        lr: Base learning rate.
        ratios: Ratio to it by block.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16)
    >>> [(g["block"], g["lr"]) for g in block_groups(layer, lr=0.1, ratios={"ffn": 5})]
    [('qkv', 0.4), ('vo', 0.4), ('ffn', 0.5), ('norm', 0.1)]
    """
    rule = Blockwise.parse(ratios or True)
    assert rule is not None
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rule.check(name for name, _ in trainable)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in trainable:
        key = rule.key(name) or ""
        ratio = rule.ratios[key]
        new = {"params": [], "block": key, "ratio": ratio, "lr": lr * ratio}
        groups.setdefault(key, new)["params"].append((name, parameter))
    return list(groups.values())
