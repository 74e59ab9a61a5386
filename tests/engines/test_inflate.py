"""Compressed answers, whole, cut, false and without end."""

import gzip
import itertools
import tracemalloc
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UpstreamError, UpstreamRateLimited
from schemas.providers import OpenAIOptions
from tests.engines.jobs import Collector, chat, make_job
from tests.engines.test_openai import HELLO, _chunk, _engine, _events, _fail, _stream
from tests.support.upstream import Body, Fail, Upstream, Wire
from workers.inference.engines import Engine
from workers.inference.engines.inflate import PIECE, to_inflater

TEXT = b"".join(b"data: %d\n\n" % number for number in range(500))


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODED = {b"gzip": gzip.compress, b"X-Gzip": gzip.compress, b"deflate": zlib.compress}


def _inflate(coding: bytes, pieces: list[bytes]) -> tuple[bytes, bool]:
    inflater = to_inflater(coding)
    assert inflater is not None
    made = b""
    for piece in pieces:
        made += inflater.feed(piece)
        while inflater.pending:
            made += inflater.feed(b"")
    return made, inflater.is_whole()


@given(
    st.binary(max_size=2000), st.lists(st.integers(0, 3000), max_size=6), st.sampled_from([*CODED])
)
def test_any_text_is_inflated_in_any_pieces(data: bytes, cuts: list[int], coding: bytes) -> None:
    coded = CODED[coding](data)
    edges = [0, *sorted(min(cut, len(coded)) for cut in cuts), len(coded)]
    pieces = [coded[begin:end] for begin, end in itertools.pairwise(edges)]
    assert _inflate(coding, pieces) == (data, True)


def test_members_of_gzip_follow_each_other() -> None:
    coded = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert _inflate(b"gzip", [coded]) == (b"one two", True)
    assert _inflate(b"gzip", [bytes([byte]) for byte in coded]) == (b"one two", True)


def test_deflate_may_lack_its_head() -> None:
    assert _inflate(b"deflate", [_raw_deflate(TEXT)]) == (TEXT, True)


@pytest.mark.parametrize("coding", [b"identity", b"", b" Identity , "])
def test_what_is_not_coded_is_left_alone(coding: bytes) -> None:
    assert to_inflater(coding) is None


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"compress", b"x"])
def test_unknown_codings_are_refused(coding: bytes) -> None:
    with pytest.raises(UpstreamError, match="unknown way"):
        to_inflater(coding)


def test_a_bomb_is_stopped_while_it_is_small() -> None:
    bomb = gzip.compress(b"\0" * (200 << 20), 9)
    inflater = to_inflater(b"gzip")
    assert inflater is not None
    tracemalloc.start()
    made = 0
    with pytest.raises(UpstreamError, match="beyond measure"):  # noqa: PT012 - when, is the point
        made += len(inflater.feed(bomb))
        while inflater.pending:
            piece = inflater.feed(b"")
            assert len(piece) <= PIECE
            made += len(piece)
    assert made < (4 << 20) + 100 * len(bomb) + PIECE
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def _flushed(*events: bytes, end: bool = True) -> list[bytes]:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    pieces = [packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) for event in events]
    return [*pieces, packer.flush()] if end else pieces


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize("compression", [False, True])
async def test_a_compressed_answer_is_understood_asked_for_or_not(
    upstream: Upstream, compression: bool
) -> None:
    engine = _engine(upstream, compression=compression)
    coded = gzip.compress(HELLO)
    upstream.script(
        Body([coded], headers=GZIP),
        Body([bytes([byte]) for byte in coded], headers=GZIP),
        Body([zlib.compress(HELLO)], headers={"Content-Encoding": "deflate"}),
    )
    for _ in range(3):
        sink, outcome = await _stream(engine)
        assert (sink.text(), outcome.finish_reason) == ("Hello", "stop")
    asked = {call.headers["accept-encoding"] for call in upstream.calls}
    assert asked == {"gzip, deflate" if compression else "identity"}
    await engine.close()


async def test_each_flushed_token_of_a_compressed_stream_is_passed_on_at_once(
    openai_engine: Engine, upstream: Upstream
) -> None:
    pieces = _flushed(_events(_chunk("Hel")), _events(_chunk("lo")), end=False)
    upstream.script(Body(pieces, headers=GZIP, end="hang"))
    sink, error = await _fail(openai_engine)
    assert sink.text() == "Hello"
    assert error.http_status == 504


async def test_a_compressed_body_is_one_answer(openai_engine: Engine, upstream: Upstream) -> None:
    answer = {"choices": [{"index": 0, "message": {"content": "x" * 70}, "finish_reason": "stop"}]}
    coded = gzip.compress(msgspec.json.encode(answer))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    upstream.script(Wire(head + coded), Wire(head + coded[:-8] + b"x" * 8), Wire(head + coded[:-9]))
    job = make_job(chat("x"), stream=False)
    body, _ = await openai_engine.complete(job)
    assert msgspec.json.decode(body)["choices"] == answer["choices"]
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await openai_engine.complete(job)


@pytest.mark.parametrize("kept", [5, 30, -9, -1])
async def test_a_cut_compressed_answer_is_an_error(
    openai_engine: Engine, upstream: Upstream, kept: int
) -> None:
    answer = msgspec.json.encode({"choices": [{"finish_reason": "stop", "message": {}}]})
    body = gzip.compress(answer)[:kept]
    upstream.script(Body([body], headers=GZIP, content_type="application/json"))
    with pytest.raises(UpstreamError, match=r"cut off|compressed"):
        await openai_engine.complete(make_job(chat("x"), stream=False))
    upstream.script(Body([gzip.compress(HELLO)[:kept][:40]], headers=GZIP))
    await _fail(openai_engine)


async def test_a_bomb_of_comments_is_an_error(openai_engine: Engine, upstream: Upstream) -> None:
    bomb = gzip.compress(b":\n\n" * (40 << 20), 9)
    upstream.script(Body([bomb], headers=GZIP), Body([bomb], headers=GZIP))
    _, error = await _fail(openai_engine)
    assert "beyond measure" in error.message
    with pytest.raises(UpstreamError, match="beyond measure"):
        await openai_engine.complete(make_job(chat("x"), stream=False))


async def test_a_full_sink_pauses_in_the_middle_of_what_is_inflated(
    openai_engine: Engine, upstream: Upstream
) -> None:
    many = [_chunk(f"{number} ") for number in range(20_000)]
    coded = gzip.compress(_events(*many, _chunk(end="stop"), b"[DONE]"))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    upstream.script(Wire(head + coded))
    sizes: list[int] = []

    class Slow(Collector):
        def send(self, chunks: list[bytes]) -> None:  # type: ignore[override]
            super().send(chunks)
            self.crowded = True

        async def drain(self) -> None:
            sizes.append(len(self.chunks))
            self.crowded = False

    sink = Slow()
    outcome = await openai_engine.generate(make_job(chat("x")), sink)
    assert outcome.finish_reason == "stop"
    assert sink.text() == "".join(f"{number} " for number in range(20_000))
    assert len(sizes) > 5
    assert max(b - a for a, b in itertools.pairwise([0, *sizes])) * 130 < 2 * PIECE


async def test_the_status_counts_where_the_body_cannot_be_read(
    openai_engine: Engine, upstream: Upstream
) -> None:
    upstream.script(Fail(429, "xxx", {"Content-Encoding": "br", "Retry-After": "3"}))
    _, error = await _fail(openai_engine)
    assert isinstance(error, UpstreamRateLimited)
    assert error.retry_after == 3
    upstream.script(Fail(200, "xxx", {"Content-Encoding": "br"}))
    _, error = await _fail(openai_engine)
    assert "unknown way" in error.message


def test_compression_is_not_asked_for_by_default() -> None:
    assert not OpenAIOptions().compression
