"""A worker dies in the middle of what llama.cpp generates in it."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.faults.conftest import CHAT, assert_same
from tests.support.server import running_server
from tests.support.sse import Received, Streams

TEXTS = 6


def order(number: int) -> dict[str, Any]:
    """A text that goes on for about a quarter of a second, the likeliest one.

    No longer: on a busy machine it takes five to repeat more, and then it would not be repeated.
    """
    return {
        "model": "jan-tiny",
        "messages": [{"role": "user", "content": f"Tell me of the number {number}."}],
        "temperature": 0 if number % 2 else 0.8,
        "seed": 7,
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }


@pytest.mark.requirement("faults.worker.killed")
async def test_a_models_text_outlives_its_worker() -> None:
    with running_server("--inference", "2") as server:
        url, headers = server.url + CHAT, {"Authorization": f"Bearer {server.create_key()}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as client:

            def start(streams: Streams) -> list[asyncio.Task[Received]]:
                tasks = []
                for number in range(TEXTS):
                    received = Received()
                    streams.received.append(received)
                    reading = streams.read(received, "POST", url, json=order(number))
                    tasks.append(asyncio.create_task(reading))
                return tasks

            texts = [one.text for one in await asyncio.gather(*start(Streams(client)))]
            assert all(len(text) > 500 for text in texts)
            streams = Streams(client)
            tasks = start(streams)
            await streams.reached(30, TEXTS)
            server.kill("inference-1")
            assert_same(await asyncio.gather(*tasks), texts)
            log = (server.data / "logs" / "inference-2.log").read_text()
            assert "came out otherwise" not in log
