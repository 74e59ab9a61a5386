"""Breakers: a backend that keeps failing is left alone for a while, and calls fail at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from workers.tools.outcome import Failed

_MOST = 1000  # backends remembered: requests may name any MCP server


@dataclass
class _State:
    failures: int = 0
    until: float = 0.0


class Breakers:
    """One state for each backend. After `failures` in a row it is open for `seconds`.

    Then calls go through again, and the next failure opens it at once.
    """

    def __init__(
        self, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._states: dict[str, _State] = {}

    def is_open(self, backend: str) -> bool:
        """Whether it is left alone now."""
        state = self._states.get(backend)
        return state is not None and self._clock() < state.until

    def states(self) -> dict[str, bool]:
        """Every backend that failed lately, and whether it is open."""
        return {backend: self.is_open(backend) for backend in self._states}

    @contextmanager
    def guard(self, backend: str, shown: str) -> Iterator[None]:
        """Use a backend, called `shown` in words. Raises Failed if it is left alone.

        A Failed that is retryable counts as its failure: it, not the call, is to blame.
        """
        if self.is_open(backend):
            left = self._states[backend].until - self._clock()
            raise Failed(
                "unavailable",
                f"{shown} has failed {self._most} times in a row: it is tried again in "
                f"{max(1, round(left))} s.",
            )
        try:
            yield
        except Failed as failed:
            if failed.retryable:
                self._fail(backend)
            raise
        else:
            self._states.pop(backend, None)

    def _fail(self, backend: str) -> None:
        if backend not in self._states and len(self._states) >= _MOST:
            del self._states[next(iter(self._states))]
        state = self._states.setdefault(backend, _State())
        state.failures += 1
        if state.failures >= self._most:
            state.until = self._clock() + self._seconds
