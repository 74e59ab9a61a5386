"""Ending what a task awaits, from outside and with a reason."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import JanError
from workers.runtime.writer import Lost, Refused


class HandedBack(Exception):
    """This worker stops: another one shall go on with the run."""


_ORDER: tuple[type[Exception], ...] = (Lost, HandedBack, Refused, JanError, Exception)


class Interrupt:
    """Interrupts the one scope that may be open; before it opens, the reason waits for it.

    Of several reasons the gravest counts: a run that is lost is not cancelled any more.
    """

    def __init__(self) -> None:
        self._reasons: list[Exception] = []
        self._task: asyncio.Task[object] | None = None

    def __call__(self, reason: Exception) -> None:
        """Give a reason; what the scope awaits is cancelled."""
        self._reasons.append(reason)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def forget(self, kind: type[Exception]) -> None:
        """Take the reasons of a kind back: they were dealt with."""
        self._reasons = [reason for reason in self._reasons if not isinstance(reason, kind)]

    def check(self, *kinds: type[Exception]) -> None:
        """Raise the gravest reason there is, of these kinds or of all."""
        for kind in kinds or _ORDER:
            for reason in self._reasons:
                if isinstance(reason, kind):
                    raise reason

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Raise the reason here, once there is one."""
        self.check()
        task = self._task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        try:
            yield
        finally:
            interrupted = self._task is None
            self._task = None
            if interrupted and task.uncancel() <= cancelling:
                self.check()  # whatever what was awaited made of it
