"""What an optimizer does, tried on small rows before a run: whether it can train
them, and what it keeps.
"""

from __future__ import annotations

import torch

from decentral.errors import ConfigError
from decentral.layout import Layout
from decentral.optim.block_optimizer import BlockOptimizer
from decentral.optim.states import UnknownState
from decentral.registry import ConfiguredPlugin

#: Steps of the trial: what is made in the first is used in the second.
STEPS = 2


def check_optimizer(rule: ConfiguredPlugin, layout: Layout) -> None:
    """Refuse an optimizer, found by its dotted name, that cannot train rows of a
    model.

    Some need more than gradients: the graph that they were computed by, the loss
    again, or parameters that are all matrices. Some remember what no checkpoint can
    hold.

    Args:
        rule: The optimizer.
        layout: Where each parameter stands in a row.

    Raises:
        ConfigError: It fails, in one line that says what would do.
    """
    if "." not in rule.name or rule.plugin.origin:
        return
    row = torch.linspace(-1.0, 1.0, layout.width).unsqueeze(0)
    slope = row.cos()
    try:
        with torch.random.fork_rng(devices=[]):
            trial = BlockOptimizer(rule, layout, row, slope)
            for _ in range(STEPS):
                trial.step(1e-3)
            with trial.evaluating():
                trial.state_of(0)
    except UnknownState as error:
        raise ConfigError(
            f"optimizer {rule.name!r} remembers a {error}, which no checkpoint can hold; "
            "soap, muon and adamw resume."
        ) from error
    except Exception as error:
        if _refuses_settings(rule):
            raise
        cause = error.__cause__ or error
        said = (
            (str(cause).strip() or type(cause).__name__).splitlines()[0][:160].rstrip(".")
        )
        raise ConfigError(
            f"optimizer {rule.name!r} cannot train rows of this model ({said}); muon and soap take "
            "matrices and leave the rest to AdamW, adamw takes anything."
        ) from error


def _refuses_settings(rule: ConfiguredPlugin) -> bool:
    """Tell whether settings of the user's are refused, and not the model: a matrix
    fails, too.
    """
    known = rule.plugin.settings
    if all(value == known[key].default for key, value in rule.settings.items()):
        return False
    try:
        rule([torch.nn.Parameter(torch.ones(2, 2))])
    except ConfigError:
        return True
    return False


def state_numbers(rule: ConfiguredPlugin, layout: Layout) -> int:
    """Return how many numbers of one row's state are exchanged along with it, by a
    trial step.
    """
    # Many optimizers make their state only when they first step.
    row, grad = torch.ones(1, layout.width), torch.ones(1, layout.width)
    trial = BlockOptimizer(rule, layout, row, grad)
    trial.step(1e-3)
    return sum(channel.shape[1] for channel in trial.channels())
