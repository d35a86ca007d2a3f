"""Which tests pass without having asserted anything?

    python .ci/asserts.py [TESTS...]

Counted are assertions that held, in tests and in what they share, blocks of ``pytest.raises`` and
``pytest.warns`` that were left as they should, and what torch and numpy assert. A case that returns
before it comes to one is no case: filter it away where the test is parametrised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.assertion import rewrite

REPO = Path(__file__).resolve().parent.parent
counted = [0]
SHARED = sorted({file.stem for file in (REPO / "tests").rglob("*.py")} - {"conftest"})
if "asserts" in sys.modules:  # as a plug-in, before any of them is imported
    pytest.register_assert_rewrite(*SHARED)
    # Tests that were compiled to be counted are kept beside those that were not.
    rewrite.PYC_TAIL = f"-counted{rewrite.PYC_EXT}"


def count(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that counts when it returns."""

    def counting(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        counted[0] += 1
        return found

    return counting


def pytest_configure(config: pytest.Config) -> None:
    """Count what is asserted elsewhere than in the files of tests."""
    import numpy as np
    import torch
    from _pytest.raises import RaisesExc
    from _pytest.recwarn import WarningsChecker

    for kind in (RaisesExc, WarningsChecker):
        kind.__exit__ = count(kind.__exit__)  # type: ignore[method-assign]
    torch.testing.assert_close = count(torch.testing.assert_close)
    for name in dir(np.testing):
        if name.startswith("assert_"):
            setattr(np.testing, name, count(getattr(np.testing, name)))


def pytest_assertion_pass() -> None:
    """Count an assertion that held."""
    counted[0] += 1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Begin from none."""
    counted[0] = 0
    yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Send what was counted along with the report."""
    item.user_properties.append(("asserted", counted[0]))
    yield


class Silent:
    """What tells of the tests that asserted nothing, and ends in failure where there are any."""

    def __init__(self) -> None:
        """Know of none."""
        self.asserted: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that has passed."""
        if report.when == "call" and report.passed:
            of = [n for name, n in report.user_properties if name == "asserted"]
            self.asserted[report.nodeid] = max(of, default=0)

    def silent(self) -> list[str]:
        """Return the tests that asserted nothing."""
        return sorted(test for test, asserted in self.asserted.items() if not asserted)


def main(words: list[str]) -> int:
    """Run tests; return how many of them asserted nothing."""
    told = Silent()
    paths = [str(REPO / ".ci"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.path.insert(0, paths[0])
    options = ["-q", "-p", "asserts", "-o", "enable_assertion_pass_hook=true"]
    code = pytest.main([*options, *words], plugins=[told])
    for test in told.silent():
        print(test)
    print(f"{len(told.silent())} of {len(told.asserted)} that passed asserted nothing")
    return int(code) or bool(told.silent())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
