"""What plug-ins return is checked before anything uses it, in the same words for every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plugins import HEADS, asked, written

import decentral
from decentral.claims.trials import trial
from decentral.config import make_config
from decentral.errors import ConfigError, RunError
from decentral.merging.base import merge_weights
from decentral.network.compute import seconds_of
from decentral.plugins import describe, is_users, place_of, wrong
from decentral.registry import KINDS, build

#: Of every kind: the body of a plug-in, and what is said of what it returns.
TABLE: dict[str, list[tuple[str, str]]] = {
    "topology": [
        ("return 'ring'", "'ring'; return a networkx graph of 4 nodes"),
        ("return [[0, 1], [1, 0]]", "a list; return a networkx graph"),
    ],
    "weights": [
        ("return 'equal'", "'equal'; return an array of 8 weights, one per link"),
        (
            "return receivers[:2] * 0.1",
            "an array of shape [2]; return an array of 8 weights",
        ),
        ("return receivers * float('nan')", "weights that are no finite numbers"),
    ],
    "communication": [
        (
            "return 'often'",
            "'often' at step 1; return an intensity within [0, 1] or GLOBAL_MERGE",
        ),
        ("return float('nan')", "nan at step 1"),
        ("import torch; return torch.ones(3)", "a tensor of shape [3] at step 1"),
    ],
    "learning_rate": [
        (
            "return 'high'",
            "'high' at step 0; return a finite factor of the peak rate, at least 0",
        ),
        ("return '0.5'", "'0.5' at step 0"),
        ("return float('nan')", "nan at step 0"),
        ("return -1", "-1 at step 0"),
        ("return float('inf')", "inf at step 0"),
        ("return None", "None at step 0"),
        ("import torch; return torch.ones(2)", "a tensor of shape [2] at step 0"),
    ],
    "batch": [
        ("return 0", "0 at step 0; return a whole number of samples, at least 1"),
        ("return 2.5", "2.5 at step 0"),
        ("return True", "True at step 0"),
        ("return None", "None at step 0"),
    ],
    "optimizer": [
        ("return 'sgd'", "'sgd'; return a torch.optim.Optimizer of the parameters given"),
        (
            "import torch; return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)",
            "an optimizer of other parameters; return one of all the parameters given",
        ),
    ],
    "network": [
        ("return 'lan'", "'lan'; return a decentral.network.links.Network"),
        (
            "from decentral.network.links import uniform; return uniform(n, -1.0, 1e6)",
            "a latency_s of -1; return latency_s of at least 0",
        ),
        (
            "from decentral.network.links import uniform; return uniform(n, 0.1, float('nan'))",
            "a bandwidth_Bps of nan",
        ),
    ],
    "compute": [
        (
            "return 0.1",
            "0.1; return an array of 4 finite seconds, one per node, of at least 0",
        ),
        ("return nodes[:2] * 0.1", "an array of shape [2]"),
        ("return nodes - 1.0", "an array of shape [4] with other numbers at step 0"),
        ("return nodes * float('nan')", "an array of shape [4] with other numbers"),
    ],
    "merge": [
        (
            "return 0.25",
            "0.25; return 4 weights, one per node, of at least 0 that sum to 1",
        ),
        ("return samples[:1]", "a tensor of shape [1]"),
        ("return samples[:, None] / samples.sum()", "a tensor of shape [4, 1]"),
        ("return samples * float('nan')", "weights that are NaN or infinite"),
        ("return samples * 0 + 5", "weights that sum to 20"),
        ("x = samples * 0 + 2; x[0] = -5; return x", "a weight of -5"),
    ],
    "algorithm": [
        ("return 3", "3; return nothing: it changes the block in place"),
        ("yield block.gradient()", "a generator; return nothing"),
    ],
    "codec": [
        ("return rows[:, :3]", "a tensor of shape [4, 3]; return rows of shape [4, "),
        ("return 1.0", "1.0; return rows of shape"),
        ("return rows.double()", "rows of type torch.float64; return rows of shape"),
        ("return rows * float('nan')", "rows with NaN or infinite numbers"),
    ],
    "aggregation": [
        ("return values", "a tensor of shape [4, 3, "),
        ("return None", "None; return a tensor of shape [4, "),
        (
            "return values[:, 0] / 0",
            "NaN or infinite numbers; return finite ones for finite ones",
        ),
    ],
    "attack": [
        ("return rows[0]", "a tensor of shape ["),
        ("return rows.long()", "of type torch.int64; return a tensor of shape [1, "),
        ("return None", "None; return a tensor of shape [1, "),
    ],
    "fault": [
        (
            "return receivers * 0.5",
            "an array of shape [1]; return an array of 1 times true or",
        ),
        ("return True", "True; return an array of 1 times true or false"),
    ],
    "metric": [
        ("return 'fine'", "'fine'; return keys and numbers"),
        ("return 0.5", "0.5; return keys and numbers"),
        ("return snapshot.rows", "a tensor of shape [4, "),
        (
            "return {'own/rows': snapshot.rows}",
            "for 'own/rows'; return one number for a key",
        ),
        ("return {3: 0.5}", "the key 3; return keys that are text"),
        (
            "return {'comm/bytes': 0.5}",
            "'comm/bytes', a key of the run itself; return it by",
        ),
    ],
    "task": [
        ("return 3", "3; return a decentral.Task"),
        ("return None", "None; return a"),
    ],
    "model": [
        ("return 'mlp'", "'mlp'; return a torch.nn.Module"),
        (
            "import torch; m = torch.nn.Linear(6, 4); m.bias.data[0] /= 0; return m",
            "a model whose bias is NaN or infinite; return finite parameters",
        ),
    ],
    "split": [
        (
            "return [[1.0]]",
            "shares of shape [1, 1]; return finite shares of at least 0, [4 class",
        ),
        ("return 'even'", "'even'; return finite shares"),
        ("return [[1.0], [1.0, 2.0]]", "a list; return finite shares"),
        (
            "import numpy; return numpy.full((4, nodes), -1.0)",
            "shares that are negative, NaN or",
        ),
    ],
    "claim": [
        ("return 3", "3; return decentral.claims.Findings"),
        (
            "from decentral.claims import Findings; return Findings({'x': 'large'})",
            "'large' for 'x'; return a number per figure",
        ),
    ],
    "tracker": [("return 3", "3"), ("return None", "None")],
    "callback": [
        ("return False", "False"),
        ("return 'stop'", "'stop'; return nothing: "),
    ],
}


def test_there_are_cases_for_every_kind() -> None:
    assert TABLE.keys() == HEADS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (kind, *case)
        for kind, cases in TABLE.items()
        for case in cases
        if kind != "tracker"
    ],
)
def test_a_wrong_return_is_refused_by_name_and_line(
    kind: str, body: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, kind, body)
    if kind == "claim":
        text = trial(f"{file}:own", tmp_path, print, seeds=(0,)).outcome()["error"]
    else:
        with pytest.raises((ConfigError, RunError)) as caught:
            decentral.launch(**asked(kind, f"{file}:own"), out=str(tmp_path / "run"))
        text = str(caught.value)
    returned, _, expected = said.partition("; ")
    assert text.startswith(f"{kind} 'own' returned ")
    assert returned in text.partition("; ")[0]
    assert expected in text.partition("; ")[2]
    assert f" ({file}:3); return " in text
    assert "bug" not in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(("body", "said"), TABLE["tracker"])
def test_a_tracker_that_opens_no_sink_is_left_out(
    body: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from decentral.run.trackers import Trackers

    file = written(tmp_path, "tracker", body)
    told: list[str] = []
    Trackers([f"{file}:own"], told.append).begin(tmp_path, {}, 0)
    (text,) = told
    assert (
        f"tracker 'own' returned {said} ({file}:3); return a sink with the methods"
        in text
    )
    assert text.endswith("the run goes on without it.")


def test_a_schedule_within_another_is_named_itself(tmp_path: Path) -> None:
    file = written(tmp_path, "communication", "return 'often'")
    for outer in (
        "every(k=1, schedule={})",
        "then_merge(schedule={})",
        "switch({}, {}, at=50%)",
    ):
        part = outer.replace("{}", f"'{file}:own'")
        with pytest.raises(
            ConfigError, match="communication 'own' returned 'often' at step 1"
        ):
            decentral.launch(**asked("communication", part), out=str(tmp_path / "run"))


def test_numbers_of_other_types_that_fit_are_taken() -> None:
    rate = build("learning_rate", "constant")
    for one in (1, np.float32(0.5), torch.tensor(0.5)):
        config = make_config(asked("learning_rate", lambda progress, one=one: one))
        assert config is not None
    merge = build("merge", lambda samples: (samples / samples.sum()).float())
    assert merge_weights(merge, torch.ones(3)).sum().item() == pytest.approx(1)
    compute = build("compute", lambda nodes, step, seed: np.ones(len(nodes), int))
    assert seconds_of(compute, np.arange(2), 0, 0).tolist() == [1, 1]
    assert not is_users(rate)


def test_values_are_described_shortly() -> None:
    assert describe(np.ones((2, 3))) == "an array of shape [2, 3]"
    assert describe(torch.ones(2)) == "a tensor of shape [2]"
    assert describe("x" * 99) == "'" + "x" * 39
    assert describe(None) == "None"
    assert describe({}) == "a dict"


def test_only_a_users_plug_in_has_a_place(tmp_path: Path) -> None:
    class Rule:
        """Weigh."""

        def __init__(self, samples: Any) -> None:
            self.samples = samples

    assert place_of(build("merge", "uniform")) is None
    place = place_of(build("merge", Rule))
    assert place is not None
    assert place.file == __file__
    assert str(wrong(build("merge", "uniform"), "3", "4")) == (
        "merge 'uniform' returned 3; return 4."
    )
