"""Runs as the edge sees them: accepted, read, resumed, cancelled, left alone.

The edge keeps nothing: a run is a job on the bus, and what is told here is who reads it.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar, get_args

import msgspec
import structlog

from bus.buckets import Bucket
from bus.connection import Bus
from bus.objects import ObjectStore
from bus.wire import Message
from edge import idempotency
from edge.admission import Admission
from edge.inbox import Inbox, Reader
from edge.jobs import Jobs
from edge.orders import Caller, Order
from schemas import frames, ids, subjects
from schemas.api.needs import Needs
from schemas.commands import CancelRun, Kind, Target, encode
from schemas.content import Content
from schemas.errors import (
    BusError,
    BusUnavailable,
    JanError,
    NotFound,
    QueueFull,
    Unavailable,
)
from schemas.events import Status
from schemas.queries import decode_answer
from schemas.queries.runs import AskRun, RunResult
from schemas.responses.story import first_step

logger = structlog.get_logger()
_T = TypeVar("_T")
Note = Callable[[int], Awaitable[None]]  # takes the sequence of what a client has had written

_CANCEL_WAIT = 2.0  # seconds that a cancel waits for the run's end
_CANCEL_PATIENCE = 30.0  # seconds that a cancel is tried for while the bus is away
_ANY_EDGE = "_"  # a name that no edge has: only those who read the run answer
_ASK_EDGES = 0.05  # seconds that another edge has to say that it reads a run
_HAND_OVER = 0.5  # seconds that the last clients have to be told to go elsewhere

_decode_ids = msgspec.json.Decoder(list[str]).decode


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the settings say about runs; times in seconds."""

    edge: str
    secret: bytes
    deadline: float = 600.0  # below the hour for which TOKENS keeps what a resume needs
    accept_timeout: float = 0.7  # the bus looks four times a second: the answer comes within 1 s
    grace: float = 0.0  # how long a run goes on without a reader
    keyed_grace: float = 60.0  # … with an Idempotency-Key
    first_frame_wait: float = 10.0  # how long the status waits for the first frame or error
    heartbeat: float = 15.0
    log_content: Content = "full"  # of runs that are not stored: these are known by the log alone
    slack: float = 5.0  # how long after its deadline the worker's own word about it is awaited


@dataclass(slots=True, eq=False)
class Run:
    """A run that a client reads here, until `Runs.leave`."""

    reader: Reader
    deadline: float
    stream: bool
    grace: float
    key_name: str | None = None
    handed_off: bool = False  # this edge stops: the client shall go on reading elsewhere
    stored: bool = False  # it goes on when its clients leave
    headers: tuple[tuple[bytes, bytes], ...] = ()
    note: Note | None = None  # called before the end of a stored run is told
    accepted: int = 0  # the sequence of that fact, if it was accepted here

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.reader.run_id


class Runs:
    """The runs that this edge's clients read. Made by `open_runs`."""

    def __init__(
        self,
        bus: Bus,
        inbox: Inbox,
        objects: ObjectStore,
        admission: Admission,
        options: RunOptions,
        *,
        has_peers: Callable[[], bool] = lambda: True,
    ) -> None:
        self._bus = bus
        self._inbox = inbox
        self._jobs = Jobs(
            bus, objects, timeout=options.accept_timeout, log_content=options.log_content
        )
        self._admission = admission
        self.options = options
        self._has_peers = has_peers
        self._keys = idempotency.Keys(Bucket(bus, subjects.KV_IDEMPOTENCY))
        self._open: set[Run] = set()
        self._graces: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._idle = asyncio.Event()

    async def start(self) -> None:
        """Begin to answer the workers' question who is still read."""
        self._probes = await self._bus.subscribe(subjects.ALL_EDGES_ALIVE, self._on_probe)

    async def close(self) -> None:
        """Stop what runs on the side. Runs go on without this edge."""
        await self._probes.unsubscribe()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def accept(self, order: Order, caller: Caller) -> Run:
        """Start a run, or join the one that the caller's Idempotency-Key stands for.

        Raises ModelNotFound, InvalidRequest, IdempotencyConflict, QueueFull, and BusUnavailable
        within a second if the bus does not answer.
        """
        self._require_service()
        targets = self._admission.targets(order.model, order.kind, order.needs)
        if caller.idempotency_key is not None:
            return await self._accept_keyed(order, caller, targets)
        entry = self._new_entry(caller, "")
        run = self._begin(entry, order, self.options.grace)
        try:
            run.accepted = await self._jobs.publish(entry, order, caller, targets)
        except QueueFull:
            await self._close(run)
            raise
        except BaseException:
            await self._close(run)
            self._spawn(self._cancel_stored(run.run_id, "it could not be accepted for sure"))
            raise
        return run

    def require(self, model: str, kind: Kind, needs: Needs) -> None:
        """Refuse at once what could not be accepted. Raises what `accept` raises before it acts."""
        self._require_service()
        self._admission.targets(model, kind, needs)

    async def resume(self, run_id: str, principal: str, *, skip: int = 0) -> Run:
        """Read a run of the principal from frame `skip` on. Raises NotFound."""
        self._require_owner(run_id, principal)
        run = await self._join(run_id, self._deadline_of(run_id), skip=skip)
        reader = run.reader
        if reader.failure is not None or (not reader.fold.seq and time.time() > run.deadline):
            await self._close(run)
            raise NotFound("there is no such run, or its frames are no longer kept")
        return run

    async def cancel(self, run_id: str, principal: str, note: Note | None = None) -> str:
        """Stop a run of the principal; return how it ended, or `cancelling` after 2 s.

        What was generated is stored before, if the run is: `note` learns where.
        """
        self._require_owner(run_id, principal)
        reader = await self._inbox.attach(run_id, skip=sys.maxsize)
        try:
            await reader.catch_up()
            if not reader.fold.seq and time.time() > self._deadline_of(run_id):
                raise NotFound("there is no such run, or its frames are no longer kept")
            if not reader.fold.committed:
                await _told(self._cancel_stored(run_id, "the client asked for it", principal))
            until = asyncio.get_running_loop().time() + _CANCEL_WAIT
            while await reader.next(until):
                pass  # an unstreamed result's parts
            if note is not None and frames.is_stored(reader.fold.last):
                await note(await reader.until_ended(until))
            return _status_of(reader)
        finally:
            await self._inbox.release(reader)

    async def leave(self, run: Run) -> None:
        """End a client's reading; the run is cancelled if nobody else reads it in time."""
        await self._close(run)
        run_id = run.run_id
        if run.reader.fold.committed or run.handed_off or self._inbox.is_read(run_id):
            return
        if run.stored:
            return
        if run_id not in self._graces:
            self._graces[run_id] = self._spawn(self._abandon(run))

    async def drain(self, timeout: float) -> None:
        """Take nothing new; let streams end, then send their clients to another edge."""
        self._draining = True
        await self._until_idle(timeout)
        for run in self._open:
            run.handed_off = True
            run.reader.stop()
        await self._until_idle(_HAND_OVER)

    def __len__(self) -> int:
        """How many clients read runs here."""
        return len(self._open)

    async def _accept_keyed(self, order: Order, caller: Caller, targets: list[Target]) -> Run:
        """Take the key for a new run, or read the run that it stands for already."""
        route, key = order.kind, caller.idempotency_key or ""
        name = idempotency.key_name(caller.principal, route, key)
        mine = self._new_entry(
            caller, idempotency.body_hash(order.given or order.body, order.stream)
        )
        while True:
            entry, revision = await _told(self._keys.claim(name, mine))
            run = None if entry is mine else await self._repeat(order, entry, name)
            if run is None and entry is not mine:
                if not await _told(self._keys.replace(name, mine, revision)):
                    continue
                entry = mine
            if run is None:
                run = self._begin(mine, order, self.options.keyed_grace, name)
            if not run.reader.fold.seq:
                # Whether the first attempt's job was stored is unknown here, or to nobody: its id
                # makes another one harmless.
                await self._publish_or_close(run, entry, order, caller, targets)
            return run

    async def _publish_or_close(
        self,
        run: Run,
        entry: idempotency.Entry,
        order: Order,
        caller: Caller,
        targets: list[Target],
    ) -> None:
        """Publish a keyed run. If that fails the key keeps its run: a repeat tries it again."""
        try:
            run.accepted = await self._jobs.publish(entry, order, caller, targets)
        except BaseException:
            await self._close(run)
            raise

    async def _repeat(self, order: Order, entry: idempotency.Entry, name: str) -> Run | None:
        """Read the run that a key stands for; None if it has no result and won't have one.

        It was cancelled, or it never began and is too late to begin.
        """
        run = await self._join(entry.run_id, entry.deadline, stream=order.stream, name=name)
        run.stored = order.store or order.turn is not None
        reader, cancelled = run.reader, _status_of(run.reader) == "cancelled"
        begun = reader.fold.seq or time.time() < entry.deadline
        if begun and reader.failure is None and not cancelled:
            return run
        await self._close(run)
        stored = None if cancelled else await self._stored_result(order, entry)
        if stored is None or _status_of(stored) == "cancelled":
            return None
        return self._opened(Run(stored, time.time() + 1, order.stream, 0.0))

    async def _stored_result(self, order: Order, entry: idempotency.Entry) -> Reader | None:
        """Ask for the result of a run whose frames are gone; None if it never began."""
        asked = encode(AskRun(run_id=entry.run_id))
        answer = await _told(self._bus.ask(subjects.query("runs", "result"), asked))
        try:
            result = decode_answer(answer, RunResult)
        except NotFound:
            return None
        if result.status not in get_args(Status):
            return None
        messages = idempotency.to_messages(
            result,
            order.kind,
            stream=order.stream,
            include_usage=order.include_usage,
        )
        if not messages:
            raise NotFound("the result was too large to be kept so long", code="expired")
        reader = Reader(self._bus, entry.run_id, "", behind=False)
        for seq, message in enumerate(messages, 1):
            reader.take(seq, message)
        return reader

    def _new_entry(self, caller: Caller, body_hash: str) -> idempotency.Entry:
        options = self.options
        run_id = ids.new_run_id(caller.principal, options.secret)
        now = time.time()
        return idempotency.Entry(run_id, options.edge, body_hash, int(now), now + options.deadline)

    def _begin(
        self, entry: idempotency.Entry, order: Order, grace: float, name: str | None = None
    ) -> Run:
        # Listen before publishing: a fast worker would answer nobody.
        reader = self._inbox.open(entry.run_id)
        if order.kind == "response" and order.stream:
            reader.part = self._inbox.open(first_step(entry.run_id))
        run = Run(reader, entry.deadline, order.stream, grace, name)
        run.stored = order.store or order.turn is not None
        return self._opened(run)

    async def _join(
        self,
        run_id: str,
        deadline: float,
        *,
        skip: int = 0,
        stream: bool = True,
        name: str | None = None,
    ) -> Run:
        self._require_service()
        reader = await self._inbox.attach(run_id, skip=skip)
        pending = self._graces.pop(run_id, None)
        if pending is not None:
            pending.cancel()
        run = self._opened(Run(reader, deadline, stream, self.options.keyed_grace, name))
        await reader.catch_up()
        return run

    def _opened(self, run: Run) -> Run:
        self._open.add(run)
        return run

    async def _close(self, run: Run) -> None:
        self._open.discard(run)
        if not self._open:
            self._idle.set()
        await self._inbox.release(run.reader)

    async def _abandon(self, run: Run) -> None:
        """Cancel a run that nobody reads any more, once its grace is over."""
        run_id = run.run_id
        await asyncio.sleep(run.grace)
        self._graces.pop(run_id, None)
        if self._inbox.is_read(run_id) or await self._is_read_elsewhere(run_id):
            return
        await self._cancel_stored(run_id, "the client went away")
        if run.key_name is not None:
            await self._keys.release(run.key_name, run_id)

    async def _is_read_elsewhere(self, run_id: str) -> bool:
        if not self._has_peers():
            return False
        question = self._bus.ask(subjects.edge_alive(_ANY_EDGE), msgspec.json.encode([run_id]))
        try:
            await asyncio.wait_for(question, _ASK_EDGES)
        except (BusError, TimeoutError):
            return False
        return True

    async def _cancel_stored(self, run_id: str, reason: str, by: str = "") -> None:
        await self._bus.store(
            subjects.cancel(run_id),
            encode(CancelRun(run_id, reason, by, time.time())),
            msg_id=f"CONTROL:cancel:{run_id}:0",
            timeout=_CANCEL_PATIENCE if not by else self.options.accept_timeout,
        )

    def _on_probe(self, message: Message) -> None:
        """Tell a worker, or an edge, which of its runs are read here."""
        asked = _decode_ids(message.data)
        read = [run for run in asked if self._inbox.is_read(run) or run in self._graces]
        named = message.subject == subjects.edge_alive(self.options.edge).encode()
        if message.reply and (read or named):
            self._bus.publish(message.reply.decode(), msgspec.json.encode(read))

    def _require_service(self) -> None:
        if self._draining:
            raise Unavailable("this server is stopping", retry_after=1)
        if not self._bus.connected:
            raise BusUnavailable("the message bus can't be reached", retry_after=1)

    def _require_owner(self, run_id: str, principal: str) -> None:
        if not ids.is_owner(run_id, principal, self.options.secret):
            raise NotFound("there is no such run, or its frames are no longer kept")
        self._require_service()

    def _deadline_of(self, run_id: str) -> float:
        return ids.created_ms(run_id) / 1000 + self.options.deadline

    async def _until_idle(self, timeout: float) -> None:
        if not self._open:
            return
        self._idle.clear()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@asynccontextmanager
async def open_runs(runs: Runs) -> AsyncIterator[Runs]:
    """Keep `runs` working for the context's life."""
    await runs.start()
    try:
        yield runs
    finally:
        await runs.close()


async def _told(work: Coroutine[None, None, _T]) -> _T:
    """Await something of the bus; its errors as clients see them."""
    try:
        return await work
    except BusError as error:
        raise BusUnavailable("the message bus did not answer", retry_after=1) from error


async def _logged(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except JanError as error:
        logger.warning("a run could not be cancelled", error=error.message)


def _status_of(reader: Reader) -> str:
    last = reader.fold.last
    if not reader.fold.committed or last is None:
        return "cancelling"
    return frames.decode_commit(last.trailer).status
