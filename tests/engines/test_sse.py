"""Server-sent events in every legal form, cut anywhere."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UpstreamError
from workers.inference.engines.sse import EVENT_LIMIT, EventSplitter


def _split(data: bytes, *cuts: int) -> list[bytes]:
    splitter = EventSplitter()
    found = []
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in pairwise(edges):
        found += splitter.feed(data[begin:end])
    return found + splitter.flush()


@pytest.mark.parametrize(
    ("data", "payloads"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b": a comment\n\ndata: a\n\n: another\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b'data: {"a":\ndata: 1}\n\n', [b'{"a":\n1}']),
        (b"data\n\n", []),
        (b"\n\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: [DONE]", [b"a", b"[DONE]"]),
        (b"data: a\n\ndata: [DONE]\n", [b"a", b"[DONE]"]),
        (b"datax: a\n\ndata: b\n\n", [b"b"]),
    ],
)
def test_events_are_found_however_they_are_cut(data: bytes, payloads: list[bytes]) -> None:
    assert _split(data) == payloads
    assert _split(data, *range(len(data))) == payloads
    for cut in range(len(data)):
        assert _split(data, cut) == payloads


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"event: ping\ndata: {}\n\n", [(b"ping", b"{}")]),
        (b"event:a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", [(b"a", b"1"), (b"", b"2")]),
        (b"data: 1\nevent: late\ndata: 2\n\n", [(b"late", b"1\n2")]),
        (b"event: a\nevent: b\n: c\nid: 1\ndata: x\n\n", [(b"b", b"x")]),
        (b"event: no data\n\ndata: x", [(b"", b"x")]),
        (b"\xef\xbb\xbfevent: a\ndata: x\n\n", [(b"a", b"x")]),
    ],
)
def test_the_names_of_events_are_told_to_who_wants_them(
    data: bytes, events: list[tuple[bytes, bytes]]
) -> None:
    for size in range(1, len(data) + 1):
        splitter = EventSplitter()
        found = []
        for at in range(0, len(data), size):
            found += splitter.feed_named(data[at : at + size])
        assert found + splitter.flush_named() == events


_LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
_PAYLOADS = st.lists(
    st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1).map(
        lambda text: b"x" + text.encode()
    ),
    max_size=8,
)


@given(_PAYLOADS, _LINE_ENDS, st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_any_payloads_survive_any_cuts(
    payloads: list[bytes], end: bytes, cuts: list[int], with_comments: bool
) -> None:
    comment = b": ping" + end + end if with_comments else b""
    data = b"".join(b"data: " + payload + end + end + comment for payload in payloads)
    assert _split(data, *cuts) == payloads


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter()
    piece = b"x" * 65_536
    with pytest.raises(UpstreamError):  # noqa: PT012 - at which piece is not the point
        splitter.feed(b"data: ")
        for _ in range(EVENT_LIMIT // len(piece) + 2):
            assert splitter.feed(piece) == []
