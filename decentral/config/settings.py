"""Every setting of a run: what it may be, and what it is by default.

Plug-ins stay as written until ``Setup`` (in ``decentral.loop``) builds them; the
resolved configuration that a run folder keeps has every default written out and
reproduces the run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from decentral import limits
from decentral.config.engine import Engine
from decentral.errors import ConfigError, complaint, nearest, shorten
from decentral.registry import KINDS, ConfiguredPlugin, Count, Positive, build
from decentral.schedules.phases import METHODS, Adversarial, LabelNoise, Sam
from decentral.schedules.progress import Past
from decentral.signature import truth_as_number
from decentral.spec import NOTHING, Spec, parse_spec, scalar, spell
from decentral.units import Seconds, parse_amount
from decentral.userfile import lies, resolve_path

# --- a run ------------------------------------------------------------------------


#: A plug-in as written: text, a mapping with ``name``, a number, or an object from
#: Python.
PluginSpec = Any
#: The same, in a list: text, or what was made of a function.
Named = Annotated[Any, AfterValidator(lambda value: _check_named(value))]
Auto = Literal["auto"]

#: Configuration keys that hold a list of plug-ins, and their kind.
LISTS = {
    "metrics": "metric",
    "faults": "fault",
    "track": "tracker",
    "callbacks": "callback",
}
#: Configuration keys that hold a plug-in, and its kind.
PARTS = {kind: kind for kind in KINDS if kind not in {*LISTS.values(), "claim"}}
#: Those that hold objects which are not called themselves, too.
_OBJECTS = {key: LISTS[key] for key in ("metrics", "callbacks")}
#: Short names on the command line and in Python.
ALIASES = {
    "schedule": "communication",
    "lr": "learning_rate.lr",
    "lr_schedule": "learning_rate",
    "batch_schedule": "batch",
}
#: The setting that a bare number means.
NUMBERS = {"learning_rate": "lr", "batch": "size", "compute": "seconds"}
#: Keys whose settings are those of a model.
NESTED: dict[str, type[BaseModel]] = {**METHODS, "engine": Engine}


class Config(BaseModel):
    """Every setting of a run."""

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, frozen=True, allow_inf_nan=False
    )

    task: PluginSpec = Field("digits", description="data, loss and evaluation")
    model: PluginSpec = Field(
        "mlp", description="the network, unless the task brings its own"
    )
    nodes: Annotated[Count, Le(limits.NODES)] = Field(16, description="number of nodes N")
    steps: Count = Field(
        3000, description="optimizer steps of every node, unless data ends it"
    )
    data: str | None = Field(
        None,
        description="end after so much data of all nodes: 1M samples, 3 epochs, 9k/node",
    )
    seconds: Seconds | None = Field(None, description="end after so much simulated time")
    local_steps: Count = Field(10, description="steps between two communication steps")
    participation: Positive | Count = Field(
        1, description="nodes drawn for a round: a share up to 1, or a number from 2 on"
    )
    algorithm: PluginSpec = Field("dsgd", description="what a node does in a step")
    codec: PluginSpec = Field("none", description="how rows are coded for gossip")
    aggregation: PluginSpec = Field(
        "weighted", description="what nodes make of the rows they receive"
    )
    attack: PluginSpec = Field(
        None, description="what bad nodes do: sign_flip(nodes=[3]), and so on"
    )
    topology: PluginSpec = Field("ring", description="who may send to whom")
    weights: PluginSpec = Field(
        "auto",
        description="mixing weights; auto: the graph's own or metropolis; file: its own",
    )
    communication: PluginSpec = Field(
        "late", description="when to communicate, and how much"
    )
    network: PluginSpec = Field(
        "auto",
        description="what lies between nodes, for simulated seconds; auto: the graph's own",
    )
    compute: PluginSpec = Field(
        "auto",
        description="seconds of a step, such as 20ms; auto: measured, where a network is",
    )
    learning_rate: PluginSpec = Field("constant", description="learning-rate schedule")
    node_lr: dict[Annotated[int, Ge(0)] | str, Positive] = Field(
        {},
        description="factors of the learning rate of nodes, such as {3: 1000}, {Oslo: 0.5}",
    )
    batch: PluginSpec = Field(
        "constant", description="schedule of the batch size, samples per node"
    )
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = Field(
        0.0, description="share of a training target spread over all classes"
    )
    label_noise: LabelNoise | None = Field(
        None, description="noise on training targets, in phases"
    )
    adversarial: Adversarial | None = Field(
        None, description="train on attacked inputs, in phases"
    )
    sam: Sam | None = Field(None, description="sharpness-aware minimisation, in phases")
    micro_batch: Count | Auto | None = Field(
        "auto",
        description="samples per forward pass; auto: the batch, at most 256 if it grows",
    )
    optimizer: PluginSpec = Field("sgd", description="torch optimizer of every node")
    clip: Positive | None = Field(None, description="largest gradient norm of a node")
    clip_value: Positive | None = Field(None, description="largest number in a gradient")
    init: Literal["shared", "independent"] = Field("shared", description="initial models")
    split: PluginSpec = Field("dirichlet", description="who holds which samples")
    sampling: Literal["fixed", "resample"] = Field(
        "fixed", description="nodes keep samples, or redraw them from their classes"
    )
    replacement: Literal["auto", "always", "never"] = Field(
        "auto", description="draw with replacement; auto: where a shard is below a batch"
    )
    merge: PluginSpec = Field("uniform", description="how models are averaged")
    mix_state: bool = Field(
        False, description="exchange optimizer state along with the models"
    )
    gossip_buffers: bool = Field(True, description="gossip BatchNorm statistics, too")
    calibration_samples: Count = Field(2048, description="to re-estimate BatchNorm")
    metrics: tuple[Named, ...] = Field(
        ("accuracy", "loss", "mergeability", "consensus", "gradient"),
        description="what to measure",
    )
    seed: Annotated[int, Ge(0)] = Field(0, description="of every draw in the run")
    eval_every: Count | Auto = Field(
        "auto",
        description="steps between two evaluations; auto: cheap, and 20 if it can be",
    )
    eval_samples: Count = Field(
        2048, description="most test samples of an evaluation in between"
    )
    eval_nodes: Count = Field(64, description="nodes of evaluations in between")
    log_every: Count | Auto = Field("auto", description="steps between two log lines")
    checkpoint_every: Count | Auto = Field(
        "auto", description="steps between two checkpoints"
    )
    keep_checkpoints: Count = Field(2, description="newest checkpoints that are kept")
    replicas: Literal["auto", "tune", "vmap", "loop"] = Field(
        "auto",
        description="rows together or in a loop; auto: by a table; tune: by a measurement",
    )
    mixing: Literal["auto", "ordered"] = Field("auto", description="ordered: same bits")
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="precision of the rows"
    )
    precision: Literal["same", "bfloat16"] = Field(
        "same", description="of forward and backward passes; same: that of the rows"
    )
    activation_checkpointing: bool = Field(
        False,
        description="repeated layers keep their inputs only: less memory, more time",
    )
    compile: Literal["default", "reduce-overhead"] | None = Field(
        None, description="mode of torch.compile, all rows together; none: not compiled"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: Count | Auto = Field(
        "auto", description="CPU threads; auto: one for small steps"
    )
    on_nonfinite: Literal["stop", "quarantine"] = Field(
        "stop", description="what a node with NaN or Inf does to the run"
    )
    engine: Engine = Field(
        Engine.model_validate({}),
        description="local: this process; ray(workers=4): actors; auto: what others need",
    )
    faults: tuple[Named, ...] = Field(
        (), description="what goes wrong: churn, lost(0.2), kill(worker=1, step=50), ..."
    )
    track: tuple[Named, ...] = Field(
        (), description="where metrics go, too: tensorboard, wandb(project=mine)"
    )
    callbacks: tuple[Named, ...] = Field(
        (), description="what is told of the run and may stop it: early_stopping"
    )
    out: str | None = Field(None, description="run folder; none: runs/<name>")

    # No setting: what a run had done when it was resumed with other schedules.
    _past: Past | None = PrivateAttr(None)

    # Nor this: the files of others that the user lets run, with their digests.
    _approved: Mapping[str, str] = PrivateAttr({})

    @property
    def approved(self) -> Mapping[str, str]:
        """The digests of files that run although the user has not named them."""
        return self._approved

    @property
    def past(self) -> Past | None:
        """What was done before the present schedules applied; None: nothing."""
        return self._past

    def after(self, past: Past | None) -> Config:
        """Return the same configuration of a run whose schedules were changed."""
        # Frozen models are shared, and private attributes are copied with them.
        changed = self.model_copy()
        changed._past = past
        return changed

    def with_approved(self, files: Mapping[str, str]) -> Config:
        """Return the same configuration with files that may run, by digest."""
        changed = self.model_copy()
        changed._approved = files
        return changed

    @field_validator("data", mode="before")
    @classmethod
    def _readable_amount(cls, value: Any) -> Any:
        return value if value is None else str(parse_amount(value))

    @field_validator(*LISTS, mode="before")
    @classmethod
    def _normalize_list(cls, value: Any, info: ValidationInfo) -> Any:
        """Take one for a list of one, look names up, and write out what was taken apart."""
        alone = isinstance(value, str | Spec | Mapping) or callable(value)
        if info.field_name in _OBJECTS:
            alone = not isinstance(value, list | tuple | None)
        listed = [value] if alone else value
        if not isinstance(listed, list | tuple):
            return value
        kind = LISTS[info.field_name or ""]
        # Functions become plug-ins at once; text stays text, as a run folder keeps
        # it.
        found = [_read_listed(kind, one) for one in listed]
        for one in found if kind != "fault" else ():
            build(kind, one if isinstance(one, ConfiguredPlugin) else str(one))
        return found


def _read_listed(kind: str, one: Any) -> Any:
    """Return one of a list as text, or as the plug-in that a function is."""
    held = kind in _OBJECTS.values() and not isinstance(one, str | Mapping | Spec)
    if held or callable(one) or (isinstance(one, Mapping) and callable(one.get("name"))):  # pyright: ignore[reportUnknownMemberType]
        return build(kind, one)
    if isinstance(one, Spec | Mapping) or ".py:" in str(one):
        found = _with_whole_paths(one if isinstance(one, Spec) else parse_spec(one, kind))  # pyright: ignore
        simple = re.fullmatch(r"[\w./:-]+", found.name) and found == Spec(found.name)
        return found.name if simple else spell(found)
    return one


def _with_whole_paths(value: Any) -> Any:
    """Return a plug-in with whole paths, so that a run goes on from any folder."""
    if isinstance(value, Spec):
        settings = {key: _with_whole_paths(one) for key, one in value.settings.items()}
        args = tuple(map(_with_whole_paths, value.args))
        return Spec(_with_whole_paths(value.name), args, settings)
    path, is_plugin, function = str(value).rpartition(".py:")
    found = is_plugin and isinstance(value, str) and lies(f"{path}.py")
    return f"{resolve_path(f'{path}.py')}:{function}" if found else value


def _check_named(value: Any) -> Any:
    """Refuse what is neither text nor was made of a function."""
    if not isinstance(value, str | ConfiguredPlugin):
        raise ValueError("it must be text")
    return value


# --- what is wrong with them ------------------------------------------------------


def as_written(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, texts that stand for numbers or for nothing as what they
    are.
    """
    return {key: _as_written(key, value) for key, value in layer.items()}


def _as_written(key: str, value: Any) -> Any:
    """Return a text that stands for a number, or for nothing, as what it is."""
    field = Config.model_fields.get(key)
    if (
        not isinstance(value, str)
        or field is None
        or key in PARTS
        or value == field.default
    ):
        return value
    nothing = value.lower() in NOTHING and field.default is None
    annotation: Any = field.annotation
    if nothing or annotation in (str, str | None):
        return None if nothing else value
    found = scalar(value, key)
    return found if type(found) in (int, float) else value


def validate(settings: Mapping[str, Any]) -> Config:
    """Return a configuration, every other setting by default; raises ConfigError."""
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_refusals(error)[0][1]) from error
    for _, text in _truths(settings, config):
        raise ConfigError(text)
    return config


def plain_faults(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with single settings that are no plug-ins: the setting,
    what is said.
    """
    given = as_written(settings)
    found: list[tuple[str, str]] = []
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        found = _refusals(error)
        wrong = {key.partition(".")[0] for key, _ in found}
        given = {key: value for key, value in given.items() if key not in wrong}
        config = Config.model_validate(given)
    return found + _truths(given, config)


def _truths(settings: Mapping[str, Any], config: Config) -> list[tuple[str, str]]:
    """Return settings that are true or false where a number is meant."""
    found = {
        key: value if key in NESTED and isinstance(value, bool) else
        truth_as_number(value, getattr(config, key))
        for key, value in settings.items()
    }  # fmt: skip
    return [
        (key, f"{key} = {spell(truth)}: it must be a number.")
        for key, truth in found.items()
        if truth is not None
    ]


def _refusals(error: ValidationError) -> list[tuple[str, str]]:
    """Return each setting that pydantic refuses, once, and what is said of it."""
    found: dict[str, str] = {}
    for one in error.errors():
        setting, text = _explain(dict(one))
        found.setdefault(setting, text)
    return list(found.items())


def _explain(first: Mapping[str, Any]) -> tuple[str, str]:
    part, *inner = (str(place) for place in first["loc"][:2])
    given, reason = first["input"], complaint(first)
    if part == "node_lr":
        remedy = "Write node_lr.3=0.5 or, in YAML, node_lr: {3: 0.5}."
        return part, f"node_lr = {given!r}: {reason} {remedy}"
    if part not in NESTED:
        return part, f"{part} = {shorten(repr(given))}: {reason}"
    known = list(NESTED[part].model_fields)
    if first["type"] == "missing":
        return (
            part,
            f"{part} needs the setting {inner[0]!r}; write {part}.{inner[0]}=value.",
        )
    if first["type"] == "extra_forbidden":
        offer = f"{nearest(inner[0], known)} Settings: {', '.join(sorted(known))}."
        return f"{part}.{inner[0]}", f"{part} has no setting {inner[0]!r}.{offer}"
    if not inner and part == "engine":
        return part, f"engine: {reason}"
    where = ".".join(
        [part, *(name for name in inner if (part, name) != ("engine", "name"))]
    )
    return where, f"{where} = {given!r}: {reason}"
