"""What an optimizer may know about the run that it is part of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Course:
    """The course of the learning rate, for optimizers with schedules of their own.

    ``warmup`` is a share of the run, ``floor`` the least rate as a share of the peak. An optimizer
    that wants to know has a group setting ``course``, which is set to these values, as a dict, when
    a run begins. One that has a group setting ``progress`` is told before every step which share of
    the run is done, as every optimizer is told ``lr``.
    """

    cosine: bool = False
    warmup: float = 0.0
    floor: float = 0.0


#: A run without a plan.
FREE = Course()
