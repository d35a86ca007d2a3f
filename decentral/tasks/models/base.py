"""Models: functions ``(input_shape, outputs) -> torch.nn.Module``.

The trait ``inputs`` says what a model takes: ``numbers`` or ``tokens`` (integers
below ``outputs``), or what a task of its own kind says it gives; without it,
anything. The others stand in ``traits.ModelTraits``. A model that needs more than a
small input to be built shows a small one of its kind in the trait ``example``.
"""

from __future__ import annotations

from decentral.errors import ConfigError


def check_images(name: str, input_shape: tuple[int, ...]) -> None:
    """Refuse inputs that are no images."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"model {name!r} needs images [channels, height, width]; the task's inputs have shape "
            f"{list(input_shape)}. Use model: mlp."
        )


def check_heads(model: str, width: int, heads: int) -> None:
    """Refuse a width that does not divide among the heads.

    Args:
        model: Name of the model.
        width: Width of the model.
        heads: Number of heads.
    """
    if width % heads:
        raise ConfigError(
            f"model {model!r}: width = {width} does not divide among heads = {heads}; "
            "make it a multiple."
        )
