"""METEOR, by the Java program of its authors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def meteor(
    said: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return METEOR 1.5 in [0, 1] of the captions of several models; nothing without the program.

    It is that of the package pycocoevalcap, extra ``[captions]``, and needs Java. (Denkowski &
    Lavie, "Meteor universal", 2014.)
    """
    if not (shutil.which("java") and find_spec("pycocoevalcap")):
        return {}
    program: Any = import_module("pycocoevalcap.meteor.meteor").Meteor()
    known, found = dict(enumerate(references)), dict[str, float]()
    with program.meteor_p:
        for name, captions in said.items():
            told = {pair: [caption] for pair, caption in enumerate(captions)}
            found[name], _ = program.compute_score(known, told)
    return found
