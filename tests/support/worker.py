"""An inference worker by hand: a test takes jobs and says, frame by frame, what becomes of them."""

import asyncio
from dataclasses import dataclass

import msgspec

from bus.connection import Bus
from bus.wire import Message
from schemas import frames, subjects
from schemas.commands import RunInference, decode_run_inference

POOL = "simulated"


@dataclass
class Job:
    """A job in a worker's hands. Frames are written in append mode."""

    bus: Bus
    command: RunInference
    reply: str
    epoch: int = 0
    last: int = 0
    next: int = 0

    async def fence(self) -> None:
        """Take the run, as its first worker."""
        trailer = frames.encode_trailer(frames.Fence("nonce", 1, "worker", self.command.deadline))
        await self._store(frames.encode(frames.FENCE, trailer=trailer))
        self.epoch = self.last

    async def send(self, *chunks: bytes, flags: int = 0, status: int = 0, end: str = "") -> None:
        """Write frames; with `end`, a status, commit the run with them."""
        commit = frames.Commit(status=end)
        message = frames.encode(
            frames.DATA,
            epoch=self.epoch,
            first=self.next,
            count=len(chunks),
            data=b"".join([frames.sse(self.next + n, chunk) for n, chunk in enumerate(chunks)]),
            flags=flags | (frames.COMMIT if end else 0),
            status=status,
            trailer=frames.encode_trailer(commit) if end else b"",
        )
        self.next += len(chunks)
        await self._store(message)

    async def fail(self, status: int, envelope: bytes) -> None:
        """End the run with an error."""
        await self.send(envelope, flags=frames.ERROR, status=status, end="failed")

    async def finish(self, body: bytes) -> None:
        """End an unstreamed run with its result."""
        await self._store(
            frames.encode(
                frames.DATA,
                epoch=self.epoch,
                first=self.next,
                count=1,
                data=body,
                flags=frames.RESULT | frames.COMMIT,
                trailer=frames.encode_trailer(frames.Commit(status="completed")),
            )
        )

    def ack(self) -> None:
        """Give the job back as done."""
        self.bus.publish(self.reply, b"+ACK")

    async def _store(self, message: bytes) -> None:
        subject = subjects.frames(self.command.edge, self.command.run_id)
        ack = await self.bus.store(subject, message, expect_last=self.last)
        self.last = ack.seq


async def take_job(bus: Bus, pool: str = POOL, timeout: float = 20.0) -> Job:
    """Wait for the next job of a pool. Raises TimeoutError if there is none."""
    consumer = subjects.inference_consumer(pool, subjects.INTERACTIVE)
    came: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    inbox = bus.nc.new_inbox()
    # A job comes under its own subject, so it is no answer as `ask` knows them.
    subscription = await bus.subscribe(inbox, came.set_result)
    asked = msgspec.json.encode({"batch": 1, "expires": int(timeout * 1e9)})
    bus.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{consumer}", asked, reply=inbox)
    try:
        message = await asyncio.wait_for(came, timeout + 1)
    finally:
        await subscription.unsubscribe()
    if message.status:
        raise TimeoutError("no job came")
    return Job(bus, decode_run_inference(message.data), message.reply.decode())


async def next_cancel(bus: Bus) -> "asyncio.Future[bytes]":
    """Listen for a cancel; the result is the id of the run that is cancelled."""
    told: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    await bus.subscribe(
        subjects.ALL_CANCELS,
        lambda message: told.done() or told.set_result(subjects.last_token(message.subject)),  # type: ignore[func-returns-value]
    )
    return told
