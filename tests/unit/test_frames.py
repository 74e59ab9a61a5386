"""Frames and their fold: one text for every reader, whatever zombies write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import frames
from tests.support.histories import FRAMES, History, histories


def test_a_message_comes_back_as_it_was_encoded() -> None:
    message = frames.encode(
        frames.DATA,
        epoch=2**40,
        first=7,
        count=2,
        at=1_795_000_000_000_000,
        data=b"id: 7\ndata: {}\n\nid: 8\ndata: {}\n\n",
        flags=frames.ERROR | frames.COMMIT,
        status=502,
        trailer=b'{"status":"failed"}',
    )

    frame = frames.decode(message)

    assert frame == frames.Frame(
        frames.DATA,
        frames.ERROR | frames.COMMIT,
        502,
        2**40,
        7,
        2,
        1_795_000_000_000_000,
        b"id: 7\ndata: {}\n\nid: 8\ndata: {}\n\n",
        b'{"status":"failed"}',
    )


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_refused_or_taken_apart(message: bytes) -> None:
    try:
        frame = frames.decode(message)
    except ValueError:
        return
    assert frames.PREFIX_SIZE + len(frame.data) + len(frame.trailer) == len(message)


@pytest.mark.parametrize(
    ("message", "last"),
    [
        (frames.encode(frames.FENCE), False),
        (frames.encode(frames.DATA), False),
        (frames.encode(frames.DATA, flags=frames.ERROR), False),
        (frames.encode(frames.DATA, flags=frames.COMMIT), True),
        (frames.encode(frames.END), True),
        (b"no frame", False),
    ],
)
def test_a_commit_and_an_end_are_the_last(message: bytes, last: bool) -> None:
    assert frames.is_last(message) is last


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version"):
        frames.decode(b"\x02" + frames.encode(frames.FENCE)[1:])


@given(
    st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n\r")), max_size=6)
)
def test_a_message_is_cut_into_the_very_events_that_it_was_made_of(texts: list[str]) -> None:
    events = [frames.sse(index, text.encode()) for index, text in enumerate(texts)]

    cut = frames.split_events(b"".join(events))

    assert cut == events
    assert [frames.chunk_of(event) for event in cut] == [text.encode() for text in texts]


def _fold(history: History) -> tuple[frames.Fold, list[frames.Frame]]:
    fold = frames.Fold()
    kept = [fold.apply(seq, data) for seq, data in history.messages]
    return fold, [frame for frame in kept if frame is not None]


@given(histories())
def test_every_index_counts_once_and_in_order(history: History) -> None:
    fold, kept = _fold(history)

    indexes = [frame.first + n for frame in kept for n in range(frame.events)]

    assert indexes == list(range(fold.next))


@given(histories())
def test_only_the_worker_of_the_latest_fence_is_heard(history: History) -> None:
    fold, epoch = frames.Fold(), 0
    for seq, data in history.messages:
        if frames.decode(data).kind == frames.FENCE:
            epoch = seq
        frame = fold.apply(seq, data)
        assert frame is None or frame.epoch == epoch


@given(histories(finished=True), st.integers(1, 9))
def test_nothing_counts_after_a_commit(history: History, worker: int) -> None:
    text = history.text
    late = frames.encode(frames.FENCE)
    history.messages.append((history.last + 1, late))
    more = frames.encode(
        frames.DATA, epoch=history.last, first=FRAMES, count=1, data=frames.sse(FRAMES, b"late")
    )
    history.messages.append((history.last + 1, more))

    fold, _ = _fold(history)

    assert fold.committed
    assert history.text == text


@given(histories(finished=True), st.data())
def test_a_prefix_of_the_stream_folds_to_a_prefix_of_the_text(
    history: History, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(history.messages)))

    assert history.text.startswith(History(history.messages[:cut]).text)


def test_an_end_tells_where_the_run_was_logged() -> None:
    fold = frames.Fold()
    fold.apply(1, frames.encode(frames.FENCE))
    fold.apply(2, frames.encode(frames.DATA, epoch=1, flags=frames.COMMIT))
    fold.apply(3, frames.encode(frames.END, trailer=frames.encode_trailer(frames.End(77))))

    assert fold.ended
    assert fold.event_seq == 77
