"""Private parts of PyTorch and Ray: each in one module, and still what they were."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from decentral import private

REPO = Path(__file__).resolve().parent.parent
HOMES = {"private.py", "engines/ray/private.py"}
#: Public in spite of its underscore: it ends a process at once.
PUBLIC = {"os._exit"}
#: What ``collections.namedtuple`` documents.
NAMED_TUPLE = {"_fields", "_asdict", "_replace", "_make"}


# --- where they stand -----------------------------------------------------------------------------


def private_uses(source: str) -> list[str]:
    """Return what Python source uses of other packages that begins with an underscore."""
    nodes = list(ast.walk(ast.parse(source)))
    own = {name for node in nodes for name in _defined(node)}
    return [use for node in nodes for use in _uses(node, own)]


def _defined(node: ast.AST) -> Iterator[str]:
    """Yield what a module's own classes define: a method, or an attribute of ``self``."""
    if isinstance(node, ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
        yield node.attr


def _uses(node: ast.AST, own: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and _hidden(node.attr):
        owner = ast.unparse(node.value)
        if node.attr not in own | NAMED_TUPLE and f"{owner}.{node.attr}" not in PUBLIC:
            yield f"{owner}.{node.attr}"
    elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(
        "decentral"
    ):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        yield from (name for name in names if _hidden(name))
    elif isinstance(node, ast.Import):
        names = [name for alias in node.names for name in alias.name.split(".")]
        yield from (name for name in names if _hidden(name))
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "getattr",
        "setattr",
        "hasattr",
    ):
        name = node.args[1]
        if (
            isinstance(name, ast.Constant)
            and _hidden(str(name.value))
            and name.value not in NAMED_TUPLE
        ):
            yield ast.unparse(node)


def _hidden(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch\ntorch._foreach_add_(rows, 1)", ["torch._foreach_add_"]),
        ("from torch._C import _functorch", ["_C", "_functorch"]),
        ("import ray._private.worker", ["_private"]),
        ("getattr(group, '_end_coalescing')()", ["getattr(group, '_end_coalescing')"]),
        ("group._timeout = 3", ["group._timeout"]),
        ("from decentral.tasks._own import x\nself._mine\nos._exit(1)\nx.__dict__", []),
        ("class A:\n def _put(self): ...\n def new(self): A()._put()\npair._fields", []),
    ],
)
def test_a_private_part_is_recognised(source: str, expected: list[str]) -> None:
    assert private_uses(source) == expected


def test_private_parts_stand_in_one_module_each() -> None:
    package = REPO / "decentral"
    found = {
        path.relative_to(package).as_posix(): private_uses(path.read_text())
        for path in package.rglob("*.py")
    }
    assert {path for path, uses in found.items() if uses} == HOMES, found


@pytest.mark.parametrize("name", ["torch", "ray"])
def test_the_next_minor_release_is_not_let_in(name: str) -> None:
    pinned = (REPO / "constraints.txt").read_text().split(f"\n{name}==")[1].split()[0]
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    (bounds,) = [
        line for line in asked if line.replace("[default]", "").startswith(f"{name}>")
    ]
    major, minor, _ = pinned.split(".")
    assert bounds.endswith(f",<{major}.{int(minor) + 1}")


# --- PyTorch --------------------------------------------------------------------------------------


def test_every_layer_of_batchnorm_is_one() -> None:
    layers = [
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        nn.LazyBatchNorm2d,
    ]
    assert all(issubclass(layer, private.BatchNorm) for layer in layers)
    assert not issubclass(nn.GroupNorm, private.BatchNorm)
    norm: Any = private.BatchNorm(3)
    assert norm.running_mean.tolist() == [0, 0, 0]


def test_functions_of_torch_func_are_seen_from_within() -> None:
    seen: list[bool] = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(private.is_transformed())
        return x.sum()

    x = torch.ones(2, 3)
    look(x)
    torch.func.vmap(look)(x)
    torch.func.grad(look)(x)
    look(x.clone().requires_grad_()).backward()
    assert seen == [False, True, True, False]


def test_vmap_says_nothing_of_what_it_runs_row_by_row() -> None:
    """Warnings are errors here; without batching rule are cells of recurrent networks."""
    private.silence_vmap()
    cell = nn.GRUCell(2, 3)
    x, state = torch.ones(4, 5, 2), torch.ones(4, 5, 3)
    found = torch.func.vmap(lambda x, state: cell(x, state))(x, state)
    torch.testing.assert_close(found[3], cell(x[3], state[3]))


def test_chains_and_sequences_of_schedulers_show_what_they_step() -> None:
    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    one, two = (schedulers.ExponentialLR(optimizer, gamma) for gamma in (0.9, 0.5))
    chain = schedulers.ChainedScheduler([one, two])
    sequence = schedulers.SequentialLR(optimizer, [one, two], milestones=[3])
    assert private.inner_schedulers(chain) == (one, two)
    assert private.inner_schedulers(sequence) == (one, two)
    assert private.inner_schedulers(one) == ()


STEPS = """
import sys
import torch
from decentral.private import defer_compiler

def step(optimizer, weight):
    optimizer.zero_grad()
    weight.square().sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return weight.tolist()

weight = torch.nn.Parameter(torch.ones(2))
defer_compiler()
optimizer = torch.optim.SGD([weight], lr=0.25)
print(step(optimizer, weight), "sympy" in sys.modules)
import torch._dynamo.config
print(torch._dynamo.config.__name__, type(torch._dynamo) is type(sys))
defer_compiler()
print(step(optimizer, weight), torch._dynamo.is_compiling())
print(hasattr(torch._dynamo, "optimize"), hasattr(torch._dynamo, "no_such_part"))
"""


@pytest.mark.slow
def test_optimizers_step_without_torchs_compiler_and_with_it() -> None:
    """Loaded by whoever needs a part of it, it is what it would have been."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "[0.5, 0.5] False",
        "torch._dynamo.config True",
        "[0.25, 0.25] False",
        "True False",
    ], done.stderr


def group(world: int = 1, address: str = "127.0.0.1", timeout_s: float = 5.0) -> Any:
    """Return the Gloo group of the first of ``world`` processes."""
    gloo: Any = dist.ProcessGroupGloo
    timeout = timedelta(seconds=timeout_s)
    return private.gloo_group(gloo, dist.HashStore(), 0, world, timeout, address)


def test_gloo_gathers_and_has_no_coalescing() -> None:
    alone = group()
    found = torch.zeros(3, dtype=torch.uint8)
    private.all_gather(alone, found, torch.tensor([1, 2, 3], dtype=torch.uint8)).wait()
    assert found.tolist() == [1, 2, 3]
    assert not alone.supports_coalescing
    alone.shutdown()


def test_gloo_connects_through_the_address_that_is_given() -> None:
    # an address that no host has
    with pytest.raises(RuntimeError, match=r"203\.0\.113\.7"):
        group(address="203.0.113.7")


def test_gloo_waits_no_longer_than_it_is_told() -> None:
    began_s = time.monotonic()
    with pytest.raises(RuntimeError):
        group(world=2, timeout_s=0.5)
    assert time.monotonic() - began_s < 5


@pytest.mark.needs("cuda")
def test_nccl_starts_together_what_is_posted_together() -> None:
    made: Any = dist.ProcessGroupNCCL
    store, device = dist.HashStore(), torch.device("cuda", 0)
    alone = private.nccl_group(made, store, 0, 1, timedelta(seconds=30), device)
    assert alone.supports_coalescing
    values = torch.ones(3, device=device)
    private.start_coalescing(alone)
    alone.allreduce([values])
    private.end_coalescing(alone).wait()
    assert values.tolist() == [1, 1, 1]
    alone.shutdown()


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.needs("ray")
def test_notices_of_ray_go_to_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Ray's own thread hands a notice to the function that was put in the place of its own."""
    from ray._private import worker

    from decentral.engines.ray.private import quieten

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    quieten()
    stopped = threading.Event()
    said: Iterator[Any] = iter([{"job_id": None, "error_message": "a worker died"}])

    def poll() -> tuple[None, Any]:
        if (notice := next(said, None)) is None:
            stopped.set()
        return None, notice

    subscriber = SimpleNamespace(subscribe=lambda: None, poll=poll)
    job = SimpleNamespace(binary=lambda: b"")
    connected: Any = SimpleNamespace(gcs_error_subscriber=subscriber, current_job_id=job)
    said_in_log: list[str] = []
    log = logging.getLogger("decentral.ray")
    monkeypatch.setattr(log, "level", logging.INFO)
    monkeypatch.setattr(
        log, "handle", lambda record: said_in_log.append(record.getMessage())
    )
    worker.listen_error_messages(connected, stopped)
    assert said_in_log == ["a worker died"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.needs("ray")
def test_a_cluster_that_is_started_on_loopback_stays_there() -> None:
    """Elsewhere Ray replaces the address, and its servers listen on all of them."""
    from ray._private import ray_constants, services

    from decentral.engines.ray.private import on_loopback

    with on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1"
        assert services.resolve_ip_for_localhost("localhost") == "127.0.0.1"
    assert ray_constants.ENABLE_RAY_CLUSTER is True


@pytest.mark.needs("ray")
def test_ray_reads_its_environment_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import _raylet

    from decentral.engines.ray.private import read_environment

    known: Any = _raylet
    for mode in ("disabled", "token"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        read_environment()
        found = known.get_authentication_mode()
        assert found == getattr(known.AuthenticationMode, mode.upper())


class Doubled(torch.optim.SGD):
    """An optimizer whose step is somebody's own."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return super().step(closure)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, Doubled])
def test_a_quiet_step_is_a_step(kind: Any) -> None:
    """The same bits, and none of the profiler's notes, which is what is saved."""

    def made() -> tuple[torch.nn.Parameter, Any]:
        parameter = torch.nn.Parameter(torch.linspace(-1, 1, 16))
        return parameter, kind([parameter], lr=0.1)

    (one, plain), (other, quiet) = made(), made()
    with torch.profiler.profile() as noted:
        for _ in range(3):
            other.grad = other.detach().sin()
            private.step_quietly(quiet)
    for _ in range(3):
        one.grad = one.detach().sin()
        plain.step()
    assert torch.equal(one, other)
    notes = [e.name for e in noted.events() if e.name.startswith("Optimizer.step#")]
    # What a step of somebody's own calls is as it calls it.
    assert {*notes} == ({"Optimizer.step#Doubled.step"} if kind is Doubled else set())
    assert len(notes) == (6 if kind is Doubled else 0)


@pytest.mark.parametrize("where", ["instance", "everywhere"])
def test_a_quiet_step_calls_the_hooks_that_are_registered(where: str) -> None:
    from torch.optim.optimizer import register_optimizer_step_post_hook

    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer, seen = torch.optim.SGD([parameter], lr=0.1), list[int]()
    register = (
        optimizer.register_step_post_hook
        if where == "instance"
        else register_optimizer_step_post_hook
    )
    handle = register(lambda *_: seen.append(1))
    private.step_quietly(optimizer)
    handle.remove()
    private.step_quietly(optimizer)
    assert seen == [1]
    assert parameter.tolist() == pytest.approx([0.8, 0.8])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (torch.optim.SGD, {}), (torch.optim.Adam, {"amsgrad": True}), (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"foreach": False}), (Doubled, {}), (torch.optim.Adagrad, {}),
    ],
)  # fmt: skip
def test_optimizers_that_step_together_step_as_they_do_alone(
    kind: Any, settings: dict[str, Any]
) -> None:
    """The same bits, from the first step on, also of one that is a step behind."""
    from decentral.optim.base import fuse

    starts = torch.linspace(-1, 1, 48).view(3, 16)

    def made() -> tuple[list[torch.nn.Parameter], list[Any]]:
        parameters = [torch.nn.Parameter(row.clone()) for row in starts]
        return parameters, [fuse(kind([one], lr=0.1, **settings)) for one in parameters]

    (ones, alone), (others, together) = made(), made()
    for step in range(4):
        taking = slice(0, 2 if step == 0 else 3)
        for parameter in (*ones[taking], *others[taking]):
            parameter.grad = parameter.detach().sin()
        for optimizer in alone[taking]:
            optimizer.step()
        private.step_together(together[taking])
    assert all(map(torch.equal, ones, others))
    held = [[*one.state.values()] for one in (*alone, *together)]
    assert str(held[:3]) == str(held[3:])


def test_optimizers_that_step_together_call_the_kernel_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not, where somebody's hook wants to see each."""
    parameters = [torch.nn.Parameter(torch.ones(16)) for _ in range(3)]
    optimizers = [torch.optim.SGD([one], lr=0.1) for one in parameters]
    calls, sgd = [], private.sgd
    monkeypatch.setattr(private, "sgd", lambda *a, **k: (calls.append(1), sgd(*a, **k)))
    for one in parameters:
        one.grad = torch.ones(16)
    private.step_together(optimizers)
    assert calls == [1]
    handle = optimizers[0].register_step_post_hook(lambda *_: calls.append(2))
    private.step_together(optimizers)
    handle.remove()
    assert calls == [1, 2]
    assert all(one.tolist() == pytest.approx([0.8] * 16) for one in parameters)


def test_calls_for_many_tensors_are_those_for_one() -> None:
    """To the bit: laws of simulated time rest on it."""
    ones, others = torch.randn(3, 48), torch.randn(3, 48)
    expected = [
        (one * 0.3).add_(two, alpha=0.7) for one, two in zip(ones, others, strict=True)
    ]
    found = [*ones.clone()]
    private.multiply_all(found, [0.3] * 3)
    private.add_all(found, [*others], 0.7)
    assert all(map(torch.equal, found, expected))
    private.copy_all(found, [*others])
    assert all(map(torch.equal, found, others))
