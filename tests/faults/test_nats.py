"""nats-server is killed, or does not answer."""

import asyncio
import signal

import httpx
import pytest

from tests.faults.conftest import CHAT, Start, assert_same, order
from tests.support.server import eventually


@pytest.mark.requirement("faults.nats.killed")
async def test_every_stream_outlives_the_bus(start: Start) -> None:
    with start("--inference", "2") as case:
        texts = await case.undisturbed()
        received = await case.disturbed("nats")
        assert_same(received, texts)


@pytest.mark.requirement("faults.nats.stopped")
async def test_without_the_bus_requests_are_refused_at_once(start: Start) -> None:
    with start() as case:
        async with case.client() as client:
            url, body = case.server.url + CHAT, {**order(1), "stream": False}
            assert (await client.post(url, json=body)).status_code == 200
            case.server.kill("nats", signal.SIGSTOP)
            try:
                refused = await asyncio.gather(*(client.post(url, json=body) for _ in range(10)))
            finally:
                case.server.kill("nats", signal.SIGCONT)
            assert {response.status_code for response in refused} == {503}
            assert all("retry-after" in response.headers for response in refused)
            assert (await client.get(case.server.url.replace("/v1", "/healthz"))).is_success
        with httpx.Client(headers={"Authorization": f"Bearer {case.key}"}, timeout=30) as plain:
            eventually(lambda: plain.post(url, json=body).status_code == 200)
