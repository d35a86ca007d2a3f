"""The typed keywords of Python are the settings of a run, and type checkers use them."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from torch import nn

from decentral import Task
from decentral.api.changing import CHANGEABLE, FINAL_MERGE
from decentral.config import ALIASES, LISTS, PARTS, Config
from decentral.config.schema import Again, Changes, Parts, Settings

SHORT_PARTS = {name for name, key in ALIASES.items() if key in PARTS}


def hints(typed: Any) -> dict[str, Any]:
    return get_type_hints(typed, localns={"Task": Task, "nn": nn})


def test_keywords_are_the_settings_and_no_more() -> None:
    assert set(hints(Settings)) == {*Config.model_fields, *ALIASES}
    assert set(hints(Parts)) == {*PARTS, *LISTS, *SHORT_PARTS}
    assert set(hints(Again)) == {*hints(Parts), "engine"}
    assert set(hints(Changes)) == {*CHANGEABLE, FINAL_MERGE}


def words(annotation: Any) -> set[Any]:
    """Return every literal within an annotation."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    whole = (Annotated, Union, types.UnionType)
    inner = get_args(annotation) if get_origin(annotation) in whole else ()
    return {word for one in inner for word in words(one)}


@pytest.mark.parametrize("key", sorted(set(Config.model_fields) - {*PARTS, *LISTS}))
def test_a_keyword_offers_the_words_of_its_setting(key: str) -> None:
    assert words(hints(Settings)[key]) == words(Config.model_fields[key].annotation)


RIGHT = """
import networkx as nx
import numpy as np
import torch
import decentral
from decentral import Run, Task

def spread(snapshot: object) -> dict[str, float]:
    return {"spread": 1.0}

task = Task(loss=torch.nn.functional.mse_loss, train=(torch.ones(9, 2), torch.ones(9, 1)))
graph: "nx.Graph[int]" = nx.cycle_graph(4)
run = decentral.launch(
    task=task, model=lambda: torch.nn.Linear(2, 1), topology=graph, nodes=4, lr=0.1,
    schedule="late(start=80%)", batch=8, sam=0.05, metrics=["loss", spread], quiet=True,
    node_lr={0: 2.0}, optimizer={"name": "sgd", "momentum": 0.9}, out=None, data="4/node",
)
decentral.launch(topology=np.ones((2, 2)), engine="local", learning_rate=0.1)
decentral.resume(run.path, change={"steps": 9}, task=task, engine={"workers": 2})
modules: list[torch.nn.Module] = [run.model(0), *Run("run", task=task).models(at=3).values()]
one = decentral.merge(run, "fisher", at=3).model()
several = decentral.merge(run, ["uniform", "fisher"]).merged
"""
WRONG = [
    "decentral.launch(node=4)",
    "decentral.launch(nodes=[4])",
    "decentral.launch(init='mine')",
    "decentral.launch(topology=3)",
    "decentral.launch(dtype='float16')",
    "decentral.resume('run', steps=4)",
    "decentral.Run('run', seed=4)",
    "decentral.merge('run', method=4)",
]


@pytest.mark.slow
def test_pyright_takes_what_is_right_and_names_what_is_wrong(tmp_path: Path) -> None:
    """Every wrong line has its error, and no right one has any."""
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text("import decentral\n" + "\n".join(WRONG) + "\n")
    program = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*program, "--outputjson", "right.py", "wrong.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [
        (Path(one["file"]).name, one["range"]["start"]["line"])
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error"
    ]
    expected = {("wrong.py", line) for line, _ in enumerate(WRONG, 1)}
    assert set(found) == expected, done.stdout
