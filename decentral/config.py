"""A run's configuration: defaults, then the task's, then a file's, then flags; each key once.

Plug-ins stay as written until ``Setup`` (in ``decentral.loop``) builds them; the resolved
configuration that a run folder keeps has every default written out and reproduces the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from decentral import limits
from decentral.errors import ConfigError, nearest, reason
from decentral.registry import KINDS, Bound, Count, Positive, build, find, read
from decentral.schedules.methods import METHODS, Adversarial, LabelNoise, Sam
from decentral.spec import Spec, parse_spec, parse_value, scalar, spelled
from decentral.units import parse_amount
from decentral.yamltext import line_of, load_file

#: A plug-in as written: text, a mapping with ``name``, a number, or an object from Python.
Part = Any
Auto = Literal["auto"]

#: Configuration keys that hold a plug-in, and its kind.
PARTS = {kind: kind for kind in KINDS if kind not in ("metric", "claim", "fault", "tracker")}
#: Short names on the command line and in Python.
ALIASES = {"schedule": "communication", "lr": "learning_rate.lr", "batch_schedule": "batch"}
#: The setting that a bare number means.
NUMBERS = {"learning_rate": "lr", "batch": "size", "compute": "seconds"}


class Config(BaseModel):
    """Every setting of a run."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    task: Part = Field("digits", description="data, loss and evaluation")
    model: Part = Field("mlp", description="the network, unless the task brings its own")
    nodes: Annotated[Count, Le(limits.NODES)] = Field(16, description="number of nodes N")
    steps: Count = Field(3000, description="optimizer steps of every node, unless data ends it")
    data: str | None = Field(
        None, description="end after so much data of all nodes: 1M samples, 500k tokens, 9k/node"
    )
    local_steps: Count = Field(10, description="steps between two communication slots")
    algorithm: Part = Field("dsgd", description="what a node does in a step")
    codec: Part = Field("none", description="how rows are coded for gossip")
    aggregation: Part = Field("weighted", description="what nodes make of the rows they hear")
    attack: Part = Field(None, description="what bad nodes do: sign_flip(nodes=[3]), and so on")
    topology: Part = Field("ring", description="who may talk to whom")
    weights: Part = Field("auto", description="mixing weights; auto: the graph's own or metropolis")
    communication: Part = Field("late", description="when to talk, and how much")
    network: Part = Field(
        "auto", description="what lies between nodes, for simulated seconds; auto: the graph's own"
    )
    compute: Part = Field(
        "auto", description="seconds of a step, such as 20ms; auto: measured, where a network is"
    )
    learning_rate: Part = Field("constant", description="schedule of the learning rate")
    node_lr: dict[Annotated[int, Ge(0)], Positive] = Field(
        {}, description="factors of the learning rate of single nodes, such as {3: 1000}"
    )
    batch: Part = Field("constant", description="schedule of the batch size, samples per node")
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = Field(
        0.0, description="share of a training target spread over all classes"
    )
    label_noise: LabelNoise | None = Field(None, description="noise on training targets, in phases")
    adversarial: Adversarial | None = Field(None, description="train on attacked inputs, in phases")
    sam: Sam | None = Field(None, description="sharpness-aware minimisation, in phases")
    micro_batch: Count | Auto | None = Field(
        "auto", description="samples per forward pass; auto: the batch, at most 256 if it grows"
    )
    optimizer: Part = Field("sgd", description="torch optimizer of every node")
    clip: Positive | None = Field(None, description="largest gradient norm of a node")
    init: Literal["shared", "independent"] = Field("shared", description="initial models")
    split: Part = Field("dirichlet", description="who holds which samples")
    sampling: Literal["fixed", "resample"] = Field(
        "fixed", description="nodes keep samples, or redraw them from their classes"
    )
    replacement: Literal["auto", "always", "never"] = Field(
        "auto", description="draw with replacement; auto: where a shard is below a batch"
    )
    merge: Part = Field("uniform", description="how models are averaged")
    mix_state: bool = Field(False, description="exchange optimizer state along with the models")
    gossip_buffers: bool = Field(True, description="exchange BatchNorm statistics in gossip")
    calibration_samples: Count = Field(2048, description="samples that re-estimate BatchNorm")
    metrics: tuple[str, ...] = Field(
        ("accuracy", "loss", "mergeability", "consensus", "gradient"), description="what to measure"
    )
    seed: Annotated[int, Ge(0)] = Field(0, description="of every draw in the run")
    eval_every: Count | Auto = Field("auto", description="steps between two evaluations")
    eval_samples: Count = Field(2048, description="test samples of evaluations in between")
    eval_nodes: Count = Field(64, description="nodes of evaluations in between")
    log_every: Count | Auto = Field("auto", description="steps between two log lines")
    checkpoint_every: Count | Auto = Field("auto", description="steps between two checkpoints")
    keep_checkpoints: Count = Field(2, description="newest checkpoints that are kept")
    replicas: Literal["auto", "tune", "vmap", "loop"] = Field(
        "auto", description="rows together or in a loop; auto: by a table; tune: by a measurement"
    )
    mixing: Literal["auto", "ordered"] = Field("auto", description="ordered: same bits anywhere")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the rows")
    precision: Literal["same", "bfloat16"] = Field(
        "same", description="of forward and backward passes in training; same: that of the rows"
    )
    compile: Literal["default", "reduce-overhead"] | None = Field(
        None, description="mode of torch.compile, for all rows together; none: not compiled"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    threads: Count | Auto = Field("auto", description="CPU threads; auto: one for small steps")
    on_nonfinite: Literal["stop", "quarantine"] = Field(
        "stop", description="what a node with NaN or Inf does to the run"
    )
    engine: Literal["auto", "local", "ray"] = Field(
        "auto", description="auto: ray for several workers or an address, else this process"
    )
    workers: Count | Auto = Field("auto", description="Ray actors; auto: one per GPU, or per host")
    address: str | None = Field(None, description="Ray cluster, host:port or auto; none: start one")
    placement: Literal["pack", "spread"] = Field("pack", description="workers on hosts")
    wire: Literal["same", "bfloat16"] = Field("same", description="numbers between workers")
    on_failure: Literal["restart", "continue", "stop"] = Field(
        "restart", description="when a worker is lost: start it again, go on without, or end"
    )
    max_failures: Annotated[int, Ge(0)] = Field(3, description="lost workers before the run ends")
    liveness_s: Positive = Field(10.0, description="silence after which a worker is dead")
    progress_s: Positive = Field(600.0, description="seconds without a step that mean a hang")
    dashboard_port: Annotated[int, Ge(0)] | None = Field(
        None, description="of the Ray cluster that is started; none: 8265 or the next free one"
    )
    faults: tuple[str, ...] = Field(
        (), description="what goes wrong: churn, lost(0.2), kill(worker=1, step=50), ..."
    )
    track: tuple[str, ...] = Field(
        (), description="where metrics go, too: tensorboard, wandb(project=mine)"
    )
    out: str | None = Field(None, description="run folder; none: runs/<name>")

    @field_validator("data", mode="before")
    @classmethod
    def _readable_amount(cls, value: Any) -> Any:
        return value if value is None else str(parse_amount(value))

    @field_validator("faults", "metrics", "track", mode="before")
    @classmethod
    def _listed(cls, value: Any, info: ValidationInfo) -> Any:
        """Take one for a list of one, look names up, and write out what was taken apart."""
        listed = [value] if isinstance(value, str | Spec) else value
        if not isinstance(listed, list | tuple):
            return value
        kind = {"metrics": "metric", "track": "tracker"}.get(info.field_name or "")
        found = [spelled(one) if isinstance(one, Spec) else one for one in listed]
        for one in found if kind else ():
            build(str(kind), str(one))
        return found


def read_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file; raises ConfigError naming the line of a YAML mistake."""
    loaded = load_file(path)
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"configuration {path} must be a mapping of settings, such as 'nodes: 16'."
        )
    return by_name({str(key): value for key, value in loaded.items()})  # pyright: ignore


def read_settings(path: str | Path, *others: str) -> dict[str, Any]:
    """Read a file of settings that exist, and of ``others``; raises ConfigError naming the line."""
    settings = read_file(path)
    for key, value in settings.items():
        part = key.partition(".")[0]
        if part in others:
            continue
        try:
            _known(part)
        except ConfigError as error:
            where = f"configuration {path}, line {line_of(path, key)}"
            raise ConfigError(f"{where}: {error}") from error
        if value == "none" and key not in PARTS and Config.model_fields[part].default is None:
            settings[key] = None  # as on the command line
    return settings


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` and ``part.setting=value`` from the command line.

    >>> parse_assignments(["nodes=8", "optimizer.momentum=0.5"])
    {'nodes': 8, 'optimizer.momentum': 0.5}
    """
    found: dict[str, Any] = {}
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"cannot read {text!r}; write settings as key=value, e.g. nodes=8.")
        key = key.strip()
        if key == "out" and value.strip() and scalar(value) is not None:
            quoted = value.lstrip().startswith(("'", '"'))
            found[key] = parse_value(value, key) if quoted else value.strip()  # a path is data
            continue
        parsed = parse_value(value, key)
        # ``none`` is the name of a schedule, and the absence of anything else.
        found[key] = value.strip() if parsed is None and key in {*PARTS, *ALIASES} else parsed
    return found


def by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short names by those of the configuration.

    >>> by_name({"schedule.start": "80%", "lr": 0.1})
    {'communication.start': '80%', 'learning_rate.lr': 0.1}
    """
    names: dict[str, str] = {}
    for key in settings:
        head, dot, rest = key.partition(".")
        name = ALIASES.get(head, head) + dot + rest
        if name in names:
            raise ConfigError(f"{names[name]} and {key} are the same setting; keep one.")
        names[name] = key
    return {name: settings[key] for name, key in names.items()}


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge layers of settings, later ones first in rank; ``part.setting`` reaches into a plug-in.

    A plug-in written with a name replaces the one below; a mapping without ``name`` changes
    settings of the one below.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in sorted(layer.items(), key=lambda item: "." in item[0]):
            _put(merged, key, value)
    return merged


def _put(merged: dict[str, Any], key: str, value: Any) -> None:
    part, _, setting = key.partition(".")
    if key in NUMBERS and isinstance(value, str):
        number = scalar(value)  # in Python, a number may be text, as on the command line
        value = number if type(number) in (int, float) else value
    changes = isinstance(value, Mapping) and not {"name", "path"} & set(value)
    if setting:
        _known(part)
        if part == "node_lr":
            merged[part] = {**(merged.get(part) or {}), setting: value}
            return
        if part not in PARTS and part not in METHODS:
            raise ConfigError(f"{key}: {part!r} has no settings of its own; write {part}=value.")
        value, changes = {setting: value}, True
    if changes and part in PARTS:
        below = merged.get(part, Config.model_fields[part].default)
        value = {**as_mapping(part, below), **value}
    elif isinstance(value, Mapping) and part in METHODS and merged.get(part) is not None:
        below = merged[part]
        value = {**(below if isinstance(below, Mapping) else {METHODS[part].main: below}), **value}
    merged[part] = value


def _known(key: str) -> None:
    if key == "sweep":
        raise ConfigError("this configuration describes a sweep; run it by `decentral sweep`.")
    if key not in Config.model_fields:
        known = list(Config.model_fields)
        raise ConfigError(
            f"unknown setting {key!r}.{nearest(key, known)} "
            "`decentral list settings` shows them all."
        )


def as_mapping(kind: str, value: Part) -> dict[str, Any]:
    """Return a plug-in as a mapping with ``name``, so that settings can be changed."""
    if isinstance(value, int | float) and kind in NUMBERS and not isinstance(value, bool):
        return {"name": "constant", NUMBERS[kind]: value}
    spec = read(kind, value)
    names = list(find(kind, spec.name).settings) if spec.args else []
    return {"name": spec.name, **dict(zip(names, spec.args, strict=False)), **spec.settings}


def make_config(*layers: Mapping[str, Any]) -> Config:
    """Validate layers of settings on top of the defaults, the task's and the algorithm's."""
    for key in {key for layer in layers for key, value in layer.items() if value is not None}:
        _known(key.partition(".")[0])
    asked = layered(*layers)
    _refuse_unused(asked)
    suited = [
        recommended(kind, asked.get(kind, Config.model_fields[kind].default))
        for kind in ("task", "algorithm")
    ]
    settings = _with_plan(layered(*suited, *layers), asked)
    if settings.get("data") is not None and "steps" not in asked:
        settings.pop("steps", None)  # the task's default: the data end the run
    for kind, setting in NUMBERS.items():
        value = settings.get(kind)
        if isinstance(value, int | float) and not isinstance(value, bool):
            settings[kind] = {"name": "constant", setting: value}
    try:
        config = Config.model_validate(settings)
    except ValidationError as error:
        raise _refusal(error) from error
    # What a task recommends is no wish of the user's: it may give way where it cannot be.
    if "split" not in asked:
        config.model_fields_set.discard("split")
    return config


def _refusal(error: ValidationError) -> ConfigError:
    """Say what is wrong with the first setting that pydantic refuses."""
    first = error.errors()[0]
    part, *inner = (str(place) for place in first["loc"][:2])
    if part == "node_lr":
        return ConfigError(
            f"node_lr = {first['input']!r}: {reason(error)} "
            "Write node_lr.3=0.5 or, in YAML, node_lr: {3: 0.5}."
        )
    if part not in METHODS:
        return ConfigError(f"{part} = {first['input']!r}: {reason(error)}")
    known = list(METHODS[part].model_fields)
    if first["type"] == "missing":
        return ConfigError(f"{part} needs the setting {inner[0]!r}; write {part}.{inner[0]}=value.")
    if first["type"] == "extra_forbidden":
        offer = f"{nearest(inner[0], known)} Settings: {', '.join(sorted(known))}."
        return ConfigError(f"{part} has no setting {inner[0]!r}.{offer}")
    return ConfigError(f"{'.'.join([part, *inner])} = {first['input']!r}: {reason(error)}")


def recommended(kind: str, part: Part) -> Mapping[str, Any]:
    """Return the settings of a run that a task or an algorithm recommends."""
    if isinstance(part, str | Mapping | Spec):
        return find(kind, parse_spec(part, kind).name).traits.get("defaults", {})
    return part.plugin.traits.get("defaults", {}) if isinstance(part, Bound) else {}


def _with_plan(settings: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Replace ``plan(FILE)`` by the plan in that configuration, and its budget unless one is given.

    So a run folder holds the plan itself, and other hosts need no file.
    """
    batch = settings.get("batch")
    if not isinstance(batch, str | Mapping | Spec):
        return settings
    spec = read("batch", batch)
    given: Any = spec.args[0] if spec.args else None
    if spec.name != "plan" or not isinstance(given, str):
        return settings
    planned = read_file(given)
    if "batch" not in planned:
        raise ConfigError(f"batch: {given} holds no plan; `decentral plan batch --out` writes one.")
    data = asked.get("data", None if "steps" in asked else planned.get("data"))
    inside = {**as_mapping("batch", planned["batch"]), **spec.settings}
    return {**settings, "batch": inside, "data": data}


def _refuse_unused(asked: Mapping[str, Any]) -> None:
    algorithm = asked.get("algorithm", "dsgd")
    if not isinstance(algorithm, str | Mapping | Spec):
        return
    name = parse_spec(algorithm, "algorithm").name
    if find("algorithm", name).traits.get("communicates", "rounds") == "rounds":
        return
    for key in ("topology", "communication", "weights"):
        if asked.get(key) is not None:
            raise ConfigError(
                f"algorithm {name!r} takes no {key}: who talks and when is fixed by the algorithm. "
                f"Leave {key} out, or use algorithm dsgd."
            )
