"""Models: functions ``(input_shape, outputs) -> torch.nn.Module``.

The trait ``inputs`` says what a model takes: ``numbers`` or ``tokens`` (integers below
``outputs``), or what a task of its own kind says it gives; without it, anything. ``single`` says
that parts of it are computed in single precision, whatever the rows are in; ``surrogate`` why its
gradient is not that of the loss. A model that needs more than a small input to be built shows a
small one of its kind in the trait ``example``.
"""
