"""The settings of an engine: how they are written, and how two layers of them make
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import BaseModel, ConfigDict, Field, model_validator

from decentral.errors import ConfigError
from decentral.registry import Count, Positive
from decentral.spec import parse_spec

#: What ranks that a launcher starts have no use for.
_OF_RAY = {"address", "placement", "on_failure", "max_failures", "dashboard_port"}


class Engine(BaseModel):
    """How a run is trained: in this process, or by workers on a Ray cluster.

    All but the name concern Ray, and some the ranks of torchrun or Slurm. Written
    as text, ``ray(workers=4)``, or as a mapping.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Literal["auto", "local", "ray", "torchrun"] = Field(
        "auto",
        description="auto: torchrun under torchrun or srun, ray for several workers or "
        "GPUs, or an address; else local",
    )
    workers: Count | Literal["auto"] = Field(
        "auto", description="Ray actors; auto: one per GPU, or per host"
    )
    address: str | None = Field(
        None, description="Ray cluster, host:port or auto; none: start one"
    )
    placement: Literal["pack", "spread"] = Field(
        "pack", description="workers on hosts: one host after the other, or in turn"
    )
    wire: Literal["same", "bfloat16"] = Field(
        "same", description="numbers between workers; same: those of the rows"
    )
    on_failure: Literal["restart", "continue", "stop"] = Field(
        "restart",
        description="when a worker is lost: start it again, go on without, or end",
    )
    max_failures: Annotated[int, Ge(0)] = Field(
        3, description="lost workers before the run ends"
    )
    liveness_s: Positive = Field(10.0, description="silence after which a worker is dead")
    progress_s: Positive = Field(
        600.0,
        description="seconds without a step, or anything computed, that mean a hang",
    )
    dashboard_port: Annotated[int, Ge(0)] | None = Field(
        None,
        description="of the Ray cluster that is started; none: 8265 or the next free one",
    )

    @model_validator(mode="before")
    @classmethod
    def _normalize(cls, value: Any) -> Any:
        return value if isinstance(value, Engine) else engine_settings(value)

    @model_validator(mode="after")
    def _refuse_unused(self) -> Engine:
        if self.name == "local" and (unused := sorted(self.model_fields_set - {"name"})):
            raise ValueError(
                f"local is this process and takes no {unused[0]}; use engine ray, or leave "
                f"engine.{unused[0]} out"
            )
        if self.name == "torchrun" and (
            unused := sorted(self.model_fields_set & _OF_RAY)
        ):
            raise ValueError(
                f"torchrun takes no {unused[0]}: the launcher starts ranks, and again after "
                f"a loss (--max-restarts); leave engine.{unused[0]} out"
            )
        return self


#: What stands under ``engine``, its name aside.
ENGINE_SETTINGS = tuple(key for key in Engine.model_fields if key != "name")


def engine_settings(value: Any) -> dict[str, Any]:
    """Return what was written of an engine, text taken apart; no defaults.

    >>> engine_settings("ray(workers=4)"), engine_settings({"workers": 4})
    ({'name': 'ray', 'workers': 4}, {'workers': 4})
    """
    if isinstance(value, Engine):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Mapping) and "name" not in value:
        found = {str(key): inner for key, inner in value.items()}  # pyright: ignore
    else:
        spec = parse_spec(value, "engine")
        if len(spec.args) > 1 or (spec.args and "workers" in spec.settings):
            raise ConfigError(
                f"engine: cannot read {value!r}; name its settings, ray(workers=4)."
            )
        found = {"name": spec.name, **dict(zip(["workers"], spec.args, strict=False))}
        found |= spec.settings
    optional = [
        key for key, field in Engine.model_fields.items() if field.default is None
    ]
    return found | {key: None for key in optional if found.get(key) == "none"}


def engine_above(below: Any, value: Any) -> dict[str, Any]:
    """Return an engine's settings as those of two layers make them.

    Settings of the lower layer stay, so that a flag may name the engine of a file;
    this process, ``local``, has none.
    """
    above = engine_settings(value)
    kept = {} if below is None or above.get("name") == "local" else engine_settings(below)
    return {**kept, **above}
