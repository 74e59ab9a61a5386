"""One delivery of a job that writes frames: what all that a worker carries out has in common."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import structlog
from prometheus_client import Counter

from bus import Bus
from schemas import frames, subjects
from schemas.errors import BusError
from schemas.history import History
from workers.runtime import bury
from workers.runtime.delivery import Delivery
from workers.runtime.interrupt import HandedBack, Interrupt
from workers.runtime.writer import Lost, Writer

logger = structlog.get_logger()

_BACK_OFF = (0.2, 1.0, 3.0, 5.0)  # seconds before the next delivery


class Counters(Protocol):
    """The metrics that are kept here."""

    handovers: Counter


@dataclass(frozen=True, slots=True)
class Desk:
    """What all that a worker carries out shares."""

    bus: Bus
    worker: str
    max_deliver: int
    metrics: Counters


class Carried(ABC):
    """Carries a job out. `stop` may be called at any time, with the reason.

    `id` is the job's, `parent` that of the run which it is a part of.
    """

    def __init__(
        self, desk: Desk, delivery: Delivery, *, id: str, parent: str, edge: str, deadline: float
    ) -> None:
        self.id = id
        self.parent = parent
        self.delivery = delivery
        self.lost = False
        self._desk = desk
        self._deadline = deadline
        self._attempt = delivery.delivered
        self._subject = subjects.frames(edge, id)
        self._owner = os.urandom(8).hex()
        self._interrupt = Interrupt()
        self._writer: Writer | None = None

    @abstractmethod
    async def tell_story(self) -> None:
        """Do all of it, from the fence to the delivery's ack. Raises Lost, HandedBack, BusError."""

    @abstractmethod
    def observe(self, seconds: float) -> None:
        """Take down how long it was in progress."""

    def stop(self, reason: Exception) -> None:
        """Have it end: Lost without a word, HandedBack for others, a JanError for its readers."""
        if isinstance(reason, Lost):
            self.lost = True
            if self._writer is not None:
                self._writer.close(reason)
        self._interrupt(reason)

    async def carry_out(self) -> None:
        """Do the job, and answer its delivery. Every fault ends here."""
        handovers = self._desk.metrics.handovers
        try:
            await self.tell_story()
        except Lost as lost:
            handovers.labels("lost").inc()
            logger.info("lost to another worker", run_id=self.id, reason=str(lost))
        except HandedBack:
            handovers.labels("handed back").inc()
            logger.info("handed back", run_id=self.id)
            self.delivery.nak()
        except BusError as error:
            logger.warning("will be delivered again", run_id=self.id, error=str(error))
            self._give_back()
        except Exception as error:  # a fault of ours: it is tried again, then buried
            logger.exception("failed", run_id=self.id)
            await self._give_up_or_back(error)
        finally:
            if self._writer is not None:
                self._writer.close(Lost("the delivery has ended"))

    def _open_writer(self, history: History, epoch: int = 0) -> Writer:
        self._writer = Writer(
            self._desk.bus,
            self._subject,
            self._owner,
            history,
            epoch=epoch,
            on_stop=self.stop,
        )
        return self._writer

    def _fence(self) -> frames.Fence:
        return frames.Fence(self._owner, self._attempt, self._desk.worker, self._deadline)

    def _give_back(self) -> None:
        self.delivery.nak(_BACK_OFF[min(self._attempt, len(_BACK_OFF)) - 1])

    async def _give_up_or_back(self, error: Exception) -> None:
        if self._attempt < self._desk.max_deliver:
            self._give_back()
            return
        try:
            await self._bury(repr(error))
        except BusError:
            logger.exception("can't be buried", run_id=self.id)

    async def _bury(self, reason: str) -> None:
        """Keep the job for people to look at: no worker will get it again."""
        delivery = self.delivery
        await bury(
            self._desk.bus,
            subjects.JOBS,
            delivery.subject,
            delivery.data,
            error=reason,
            sequence=delivery.sequence,
        )
        delivery.term()
