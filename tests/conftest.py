"""What every test shares: one thread, repeatable draws, and skips that say what is missing.

Write ``@pytest.mark.needs("chromium")`` on a test that needs more than Python: where that is
missing it skips, with the remedy. Needs that are also markers (ray, cuda, chromium) can be
selected: ``-m ray``.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Read by the numerical libraries when they are first imported; child processes inherit them.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.update(MPLBACKEND="Agg")
# Ray reads these once in a process, whichever test is the first to load it. Workers of niceness 15,
# its default, would starve on a busy machine.
os.environ.update(RAY_AUTH_MODE="token", RAY_worker_niceness="0")

import hypothesis
import pytest
import support

from decentral import registry

# What tests run is not what the developer trusts.
_state = tempfile.TemporaryDirectory(prefix="decentral-state-")
os.environ.update(XDG_STATE_HOME=_state.name)
os.environ.pop("DECENTRAL_TRUST", None)
# What is compiled is kept, also for the processes that tests start: compiling the tests takes 4 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What tests write need not outlast a power cut, and a tiny run waits forty times for its disk.
os.fsync = lambda handle: None

REPO = Path(__file__).resolve().parent.parent
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None
)
hypothesis.settings.register_profile("search", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


# --- options --------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate",
        action="store_true",
        help="write the golden files instead of comparing with them; review the diff",
    )
    parser.addoption(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where the rows of the laws meet: in one memory, or on workers that Gloo connects",
    )


def pytest_configure(config: pytest.Config) -> None:
    support.engine = config.getoption("--engine")
    # Collecting allocates much and drops nothing.
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: Ray, hosts and processes that tests start are waited for."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


def pytest_unconfigure() -> None:
    support.standing.close()


@pytest.fixture(scope="session")
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(request.config.getoption("--regenerate"))


# --- needs ----------------------------------------------------------------------------------------


@cache
def missing(what: str) -> str:
    """Return why a test that needs ``what`` must be skipped, or an empty string."""
    return _PROBES[what]()


def chromium() -> str | None:
    """Return the path of a Chromium that can run headless, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


def _ray() -> str:
    return (
        ""
        if find_spec("ray")
        else "needs Ray: pip install -c constraints.txt -e '.[ray]'"
    )


def _datasets() -> str:
    return "" if find_spec("datasets") else "needs datasets: pip install -e '.[lm]'"


def _wandb() -> str:
    return "" if find_spec("wandb") else "needs wandb: pip install -e '.[track]'"


def _cuda() -> str:
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device"


def _chromium() -> str:
    return "" if chromium() else "needs Chromium: apt-get install chromium"


def _java() -> str:
    return (
        "" if shutil.which("java") else "needs Java: apt-get install default-jre-headless"
    )


def _prometheus() -> str:
    return (
        ""
        if shutil.which("prometheus")
        else "needs Prometheus: apt-get install prometheus"
    )


def _compiler() -> str:
    return "" if shutil.which("g++") else "needs a C++ compiler: apt-get install g++"


def _root() -> str:
    return "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "needs root"


_PROBES = {
    "datasets": _datasets,
    "ray": _ray,
    "cuda": _cuda,
    "chromium": _chromium,
    "compiler": _compiler,
    "java": _java,
    "prometheus": _prometheus,
    "root": _root,
    "wandb": _wandb,
}
_SELECTABLE = {"ray", "cuda", "chromium"}


#: Files of many seconds, the longest first: begun last, one would run on when all others are done.
LONG = (
    "test_hosts", "test_ray_failures", "test_asynchrony", "test_claims", "test_pretrained",
    "test_torchrun", "test_zoo", "test_fault", "test_kills", "test_codec", "test_ray", "test_trust",
    "test_docs", "test_report", "test_messages", "test_cli", "test_algorithm",
    "test_golden_members", "test_gradients", "test_analysis", "test_prometheus",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))
    for item in items:
        if item.get_closest_marker("soak"):
            # However busy a machine is: the limits of the suite are none of the soak's.
            item.add_marker(pytest.mark.timeout(0), append=False)
        for what in _needs(item):
            if what not in _PROBES:
                known = ", ".join(sorted(_PROBES))
                raise pytest.UsageError(
                    f"{item.nodeid}: unknown need {what!r}; known: {known}"
                )
            if what in _SELECTABLE:
                item.add_marker(what)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for what in _needs(item):
        if reason := missing(what):
            pytest.skip(reason)


def _needs(item: pytest.Item) -> list[str]:
    return [what for marker in item.iter_markers("needs") for what in marker.args]


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _torch_defaults() -> Iterator[None]:
    """One thread and float32 for every test, whatever the test before it has set."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _plugins_of_this_test() -> Iterator[None]:
    """Forget the plug-ins a test has registered, and the files it has loaded them from."""
    registered, loaded = dict(registry._registered), len(sys.modules)
    theirs = _users_modules() if loaded != _last_seen[0] else _last_seen[1]
    yield
    for key in registry._registered.keys() - registered.keys():
        if not registry._registered[key].target.__module__.startswith("decentral."):
            del registry._registered[key]
    if len(sys.modules) != loaded:
        for name in _users_modules() - theirs:
            del sys.modules[name]
    _last_seen[:] = len(sys.modules), theirs


#: How many modules there were after the last test, and which of them were users': they are
#: thousands, and rarely more.
_last_seen: list[Any] = [0, set()]


def _users_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("decentral_user_")}


@pytest.fixture(scope="session", autouse=True)
def _blank_pages() -> Iterator[Callable[..., Any]]:
    """Leave pages of runs without figures, save where a file asks for ``drawn`` or ``rendered``.

    Every run writes one, and what matplotlib does for it takes more time than all the rest of a
    tiny run. The figures of other pages are made, and left blank.
    """
    from decentral.report import figures, run

    made = run._figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "to_svg", lambda figure: '<svg viewBox="0 0 1 1"></svg>')
        patch.setattr(run, "_figures", lambda run, facts: iter(()))
        yield made


@pytest.fixture(scope="module")
def drawn(_blank_pages: Callable[..., Any]) -> Iterator[None]:
    """Make the figures of runs, and leave them blank: for files whose tests count them."""
    from decentral.report import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_figures", _blank_pages)
        yield


@pytest.fixture(scope="module")
def rendered(drawn: None) -> Iterator[None]:
    """Render the figures of pages: for files whose tests look at them."""
    from decentral.report import figures
    from decentral.report.figures.canvas import to_svg

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "to_svg", to_svg)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Make float64 torch's default type for one test."""
    import torch

    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster that all runs of a file share.

    It has no dashboard, which takes several processes; test_ray.py starts one with it.
    """
    from decentral.config import make_config
    from decentral.engines.ray import cluster

    with pytest.MonkeyPatch.context() as patch:
        plain = {"address": "local", "include_dashboard": False}
        patch.setattr(cluster, "_own", lambda engine: plain)
        made = cluster.connect(make_config({"engine": "ray"}))
    yield
    made.close()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of larger data sets: $DECENTRAL_DATA, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("DECENTRAL_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"needs data sets: {folder} is missing; set DECENTRAL_DATA to their folder"
        )
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, to fill up; needs root and the right to mount."""
    if reason := missing("root"):
        pytest.skip(reason)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def threads_may_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers that are threads look at their models at the same time."""
    from decentral.metrics import Snapshot

    for name, made in list(vars(Snapshot).items()):
        if isinstance(made, cached_property):
            monkeypatch.setattr(Snapshot, name, support.Once(made))


# --- runs to be read ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ordinary finished run with its report written."""
    from synthetic import write_run

    from decentral.report.run import write_report

    run = write_run(tmp_path_factory.mktemp("runs") / "digits-ring-late")
    write_report(run)
    return run


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve finished runs."""
    from synthetic import twelve_runs

    return twelve_runs(tmp_path_factory.mktemp("dozen"))
