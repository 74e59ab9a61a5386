"""What an upstream's faults are turned into, and that no text holds a secret."""

import asyncio
import base64
import email.utils
import json
import time
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from schemas.errors import JanError, UpstreamError, UpstreamRateLimited, UpstreamRejected
from schemas.providers import OpenAIOptions, OpenAIProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from tests.support.raw import Script, open_raw_server
from tests.support.upstream import Body, Fail, Upstream
from workers.inference.engines.faults import (
    Redactor,
    parse_rate_limit_reset,
    parse_retry_after,
    to_error,
    to_stream_error,
)
from workers.inference.engines.openai import OpenAIEngine

PLAIN = Redactor([])


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), ("0", 0.0), ("1.5", 1.5), (" 2 ", 2.0), ("-1", None), ("nan", None),
        ("inf", None), ("1e99", None), ("", None), ("soon", None), ("\xff", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("Fri, 99 Dec 1999 23:59:59 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_in_every_form(value: str, seconds: float | None) -> None:
    assert parse_retry_after({b"retry-after": value.encode("latin-1")}) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    date = email.utils.formatdate(time.time() + 90, usegmt=True).encode()
    seconds = parse_retry_after({b"retry-after": date})
    assert seconds is not None
    assert 85 < seconds <= 90


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"reset-requests": "6m0s"}, 360.0),
        ({"reset-requests": "1s", "reset-tokens": "6m0s"}, 1.0),
        ({"reset-requests": "1s", "reset-tokens": "6m0s", "remaining-tokens": "0"}, 360.0),
        ({"reset-requests": "1s", "remaining-requests": "0", "reset-tokens": "0s"}, 1.0),
        ({"reset-requests": "20ms"}, 0.02),
        ({"reset-requests": "1h2m3.5s"}, 3723.5),
        ({"reset-requests": "1d1ms"}, 86400.001),
        ({"reset": "12"}, 12.0),
        ({"reset": "1000000001"}, 0.0),
        ({"reset-requests": ""}, None),
        ({"reset-requests": "soon"}, None),
        ({"reset-requests": "6m0s later"}, None),
        ({}, None),
    ],
)
def test_a_limits_reset_is_read_as_openai_tells_it(
    headers: dict[str, str], seconds: float | None
) -> None:
    given = {f"x-ratelimit-{name}".encode(): headers[name].encode() for name in headers}
    found = parse_rate_limit_reset(given)
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 407, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529]
)
def test_every_fault_says_when_to_come_back(status: int) -> None:
    assert to_error(status, {b"retry-after": b"7"}, b"", PLAIN).retry_after == 7
    assert to_error(status, {b"retry-after-ms": b"20"}, b"{}", PLAIN).retry_after == 0.02
    error = b'{"error":{"message":"no","retry_after":3,"code":"%d"}}' % status
    assert to_error(status, {}, error, PLAIN).retry_after == 3
    assert to_stream_error(error, PLAIN).retry_after == 3
    assert to_stream_error(error, PLAIN, {b"retry-after": b"4"}).retry_after == 4
    reset = to_error(status, {b"x-ratelimit-reset-requests": b"6m0s"}, b"", PLAIN).retry_after
    assert reset == (360 if status in (429, 503) else None)


async def test_the_reset_of_a_limit_reaches_the_run(upstream: Upstream) -> None:
    engine = _engine(upstream.base_url)
    upstream.script(Fail(429, headers={"x-ratelimit-reset-tokens": "1m30s"}))
    with pytest.raises(UpstreamRateLimited) as caught:
        await engine.generate(make_job(chat("x")), Collector())
    assert caught.value.retry_after == 90
    error = b'data: {"error":{"message":"slow down","code":429}}\n\n'
    upstream.script(Body([error], headers={"Retry-After": "5"}))
    with pytest.raises(UpstreamRateLimited) as caught:
        await engine.generate(make_job(chat("x")), Collector())
    assert caught.value.retry_after == 5
    await engine.close()


@pytest.mark.parametrize("body", [b"[" * 50_000, b'{"error":' * 20_000, b'{"error":{"message":1}}'])
def test_any_body_makes_an_error(body: bytes) -> None:
    assert isinstance(to_error(500, {}, body, PLAIN), UpstreamError)
    assert isinstance(to_stream_error(body, PLAIN), UpstreamError)


KEY = 'sk-"secret\\key/0123456789'
HEADER = "header-secret-0123456789"
PASSWORD = "p/w+secret@0123456789"
SECRETS = [KEY, HEADER, PASSWORD]


def _spellings(secret: str) -> list[str]:
    escaped = json.dumps(secret)[1:-1]
    return [
        secret,
        escaped,
        json.dumps(escaped)[1:-1],
        escaped.replace("/", "\\/"),
        "".join(f"\\u{ord(letter):04x}" for letter in secret),
        "".join(f"\\u{ord(letter):04X}" for letter in secret),
        "".join(f"%{ord(letter):02X}" for letter in secret),
        secret[:9] + "\n  " + secret[9:],
        " ".join(secret),
        secret[:15],
        secret[-15:],
        f"{secret[:12]} … {secret[12:]}",
    ]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_in_every_spelling(secret: str) -> None:
    redact = Redactor(SECRETS)
    for spelling in _spellings(secret):
        text = redact(f"begin {spelling} end")
        assert text.startswith("begin ***")
        assert text.endswith(" end")
        assert "secret" not in text
        assert _spell_out(secret)[:20] not in text


def _spell_out(secret: str) -> str:
    return "".join(f"%{ord(letter):02X}" for letter in secret)


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(SECRETS))
def test_a_secret_is_found_in_any_text(before: str, after: str, secret: str) -> None:
    assert secret not in Redactor(SECRETS)(before + secret + after)


@given(st.text(st.characters(codec="ascii"), max_size=200))
def test_other_text_stays_as_it_is(text: str) -> None:
    assert Redactor(["no-such-thing-in-there-0123"])(text) == text


def test_a_hostile_text_takes_no_time() -> None:
    redact = Redactor(SECRETS)
    began = time.perf_counter()
    for text in ("\\" * 100_000, " " * 100_000, "s" * 100_000, "sk-\\u" * 20_000, "p " * 50_000):
        redact(text)
    assert time.perf_counter() - began < 2


# Every path of errors, with an upstream that repeats all it knows.


def _engine(base_url: str, **options: Any) -> OpenAIEngine:
    options = {"connect_s": 1, "first_byte_s": 0.3, "between_s": 0.3, **options}
    return OpenAIEngine(
        OpenAIProvider(
            name="remote",
            kind="openai",
            base_url=base_url,
            api_key=SecretStr(KEY),
            headers={"X-Secret": HEADER},
            models=MODELS,
            options=OpenAIOptions(**options),
        )
    )


def _echoes() -> list[Script]:
    """Answers that repeat secrets, whole or in pieces, as statuses, events, heads and noise."""
    known = [KEY, HEADER, PASSWORD, base64.b64encode(f"someone:{PASSWORD}".encode()).decode()]
    scripts = []
    for secret in known:
        for echo in (secret, json.dumps(secret)[1:-1], f"{secret[:9]}\n{secret[9:]}"):
            fields = dict.fromkeys(("message", "param", "code", "type"), echo)
            error = msgspec.json.encode({"error": fields})
            nested = msgspec.json.encode({"error": {"message": error.decode()}})
            detail = msgspec.json.encode({"detail": [{"msg": echo, "input": {"h": echo}}]})
            for body in (error, nested, detail, echo.encode()):
                for status in (400, 401, 403, 404, 407, 422, 429, 500, 503):
                    head = f"HTTP/1.1 {status} {secret}\r\nX-Echo: {secret}\r\nContent-Length: "
                    scripts.append(Script([head.encode() + b"%d\r\n\r\n" % len(body), body]))
            stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
            for event in (error, nested, detail, b'{"choices":' + error, echo.encode()):
                data = stream + b"data: " + event.replace(b"\n", b" ") + b"\n\n"
                scripts.append(Script([data[:-20], data[-20:]], "fin"))
        scripts.append(Script([f"HTTP/1.1 200 {secret}\r\nX: ".encode() + b"x" * 90_000], "fin"))
        scripts.append(Script([f"{secret}\r\n\r\n".encode()], "fin"))
        encoded = f"HTTP/1.1 200 OK\r\nContent-Encoding: {secret}\r\n\r\nx"
        scripts.append(Script([encoded.encode()], "fin"))
    return scripts


def _check(error: JanError, logs: Any, caplog: pytest.LogCaptureFixture) -> None:
    # The cause's text is part of a traceback.
    texts = [repr(error), str(error), error.to_wire().decode(), str(logs), caplog.text]
    texts += [repr(error.__cause__), repr(error.__context__)]
    for text in texts:
        flat = "".join(text.split()).replace("\\", "")
        for secret in (*SECRETS, base64.b64encode(f"someone:{PASSWORD}".encode()).decode()):
            bare = secret.replace("\\", "")
            assert bare not in flat
            assert secret[:15] not in text


async def test_no_error_and_no_log_holds_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    asyncio.get_running_loop().set_debug(True)
    quoted = PASSWORD.replace("/", "%2F").replace("@", "%40").replace("+", "%2B")
    logger = structlog.get_logger()
    with structlog.testing.capture_logs() as logs:
        async with open_raw_server(Script([])) as server:
            scripts = _echoes()
            server.script(*(script for script in scripts for _ in range(2)))
            engine = _engine(f"http://someone:{quoted}@127.0.0.1:{server.port}")
            assert engine._client.secrets
            for _ in scripts:
                for stream in (True, False):
                    job = make_job(chat("x"), stream=stream)
                    run: Any = engine.generate(job, Collector()) if stream else engine.complete(job)
                    with pytest.raises(JanError) as caught:
                        await run
                    logger.warning("attempt failed", error=caught.value.message, exc_info=True)
                    _check(caught.value, logs[-3:], caplog)
            await engine.close()
        for url, options in (
            ("http://127.0.0.1:1", {}),
            ("https://api.test", {"proxy": SecretStr(f"http://someone:{quoted}@127.0.0.1:1")}),
            ("https://127.0.0.1:1", {"ca_file": "/no/such"}),
        ):
            engine = _engine(url.replace("://", f"://someone:{quoted}@"), **options)
            with pytest.raises(JanError) as caught:
                await engine.check()
            logger.warning("check failed", error=caught.value, exc_info=True)
            _check(caught.value, logs, caplog)


async def test_a_refusal_keeps_what_is_no_secret(upstream: Upstream) -> None:
    engine = _engine(upstream.base_url)
    text = f"the key {KEY} has no model x"
    upstream.script(Fail(404, msgspec.json.encode({"error": {"message": text}}).decode()))
    with pytest.raises(UpstreamRejected) as caught:
        await engine.generate(make_job(chat("x")), Collector())
    assert caught.value.message == "the key *** has no model x"
    await engine.close()
