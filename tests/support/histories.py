"""Generated histories of one run: workers that take it over, and zombies that don't notice.

A history is what TOKENS holds, in stream order: the messages of one subject with their sequences,
which have gaps because other runs are stored in between.
"""

from dataclasses import dataclass, field

from hypothesis import strategies as st

from schemas import frames

FRAMES = 12  # of a whole run; the last one carries the commit


@dataclass
class Worker:
    """One delivery's worker: its epoch, and the index where it believes the run to stand."""

    name: int
    epoch: int
    next: int


@dataclass
class History:
    """The stored messages of a run: sequence, bytes."""

    messages: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        """What every client gets in the end, by a fold of everything in order."""
        fold = frames.Fold()
        kept = [fold.apply(seq, data) for seq, data in self.messages]
        return b"".join([frame.data for frame in kept if frame is not None])

    @property
    def last(self) -> int:
        """The sequence of the last message."""
        return self.messages[-1][0] if self.messages else 0


def _event(worker: Worker, index: int) -> bytes:
    return frames.sse(index, b'{"worker":%d,"token":%d}' % (worker.name, index))


def _data(worker: Worker, count: int) -> bytes:
    """Worker's next frames; it commits with the last one of the run."""
    first, worker.next = worker.next, worker.next + count
    commits = worker.next == FRAMES
    return frames.encode(
        frames.DATA,
        epoch=worker.epoch,
        first=first,
        count=count,
        data=b"".join([_event(worker, index) for index in range(first, first + count)]),
        flags=frames.COMMIT if commits else 0,
        trailer=frames.encode_trailer(frames.Commit(status="completed")) if commits else b"",
    )


@st.composite
def histories(draw: st.DrawFn, *, finished: bool = False) -> History:
    """Histories in which any worker may write at any time, as if nothing held zombies back."""
    history = History()
    workers: list[Worker] = []
    fold = frames.Fold()

    def store(data: bytes) -> None:
        seq = history.last + draw(st.integers(1, 3))
        history.messages.append((seq, data))
        fold.apply(seq, data)

    def take_over() -> None:
        fence = frames.Fence(f"nonce-{len(workers)}", len(workers) + 1, "w", 0.0)
        store(frames.encode(frames.FENCE, trailer=frames.encode_trailer(fence)))
        workers.append(Worker(len(workers), history.last, fold.next))

    take_over()
    for _ in range(draw(st.integers(0, 25))):
        worker = draw(st.sampled_from(workers))
        if draw(st.integers(0, 4)) == 0:
            take_over()
        elif worker.next < FRAMES:
            store(_data(worker, draw(st.integers(1, min(4, FRAMES - worker.next)))))
    if finished and not fold.committed:
        take_over()
        store(_data(workers[-1], FRAMES - workers[-1].next))
    return history
