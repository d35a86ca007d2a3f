"""Workers as the process that coordinates them sees them, whatever has started them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

#: Seconds in which a worker must exist and answer for the first time, and again when it begins.
START_S = 60.0

#: What a worker says has happened: ``what``, ``rank``, and details.
Report = Mapping[str, Any]


#: How the loss of a process reads, on a host that goes on.
PROCESS_DIED = "its process died"


class WorkersLost(Exception):
    """Workers that are gone, by rank, and why; none: contact between living ones was lost."""

    def __init__(self, ranks: Sequence[int], cause: str, step: int = 0) -> None:
        """Say who, why, and after which step."""
        super().__init__(cause)
        self.ranks, self.cause, self.step = sorted(ranks), cause, step

    @property
    def process(self) -> bool:
        """Whether only a process was lost, and its host goes on."""
        return self.cause == PROCESS_DIED

    @property
    def who(self) -> str:
        """Who is gone, in words."""
        return ", ".join(f"worker {rank}" for rank in self.ranks) or "contact between workers"


class Workers(Protocol):
    """The workers of one attempt, by rank; every method raises WorkersLost for those that are gone.

    ``steps`` are those that each has done; -1: it has not begun.
    """

    steps: list[int]

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    @property
    def step(self) -> int:
        """The step that every worker has done."""
        ...

    def ask(self, rank: int, method: str, *given: Any) -> Any:
        """Return what one worker answers."""
        ...

    def ask_all(self, method: str, *given: Any, timeout_s: float) -> list[Any]:
        """Return what every worker answers, in order."""
        ...

    def ask_each(
        self, method: str, given: Sequence[tuple[Any, ...]], timeout_s: float
    ) -> list[Any]:
        """Return what every worker answers to its own question, in order.

        Args:
            method: Name of the worker's method.
            given: Arguments for each worker.
            timeout_s: Seconds to wait for all answers.
        """
        ...

    def begin(self, jobs: Iterable[Any]) -> None:
        """Give every worker its job; from now on there are reports."""
        ...

    def reports(self) -> Iterator[Report]:
        """Yield what has happened since the last call, waiting a moment for the first of it."""
        ...
