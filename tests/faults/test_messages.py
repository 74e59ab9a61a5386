"""Messages, read by Anthropic's SDK, while a worker is killed."""

import asyncio

import anthropic
import pytest

from tests.faults.conftest import MODEL, Case, Start

STREAMS = 6


async def read_all(case: Case, kill: str | None = None) -> list[anthropic.types.Message]:
    """Read messages side by side to their ends; kill a process once each has begun."""
    root = case.server.url.removesuffix("/v1")
    begun = asyncio.Semaphore(0)

    async def read(client: anthropic.AsyncAnthropic, number: int) -> anthropic.types.Message:
        asked = {"role": "user", "content": f"Tell message number {number}."}
        async with client.messages.stream(
            model=MODEL,
            max_tokens=1000,
            messages=[asked],  # type: ignore[list-item]
        ) as stream:
            pieces = 0
            async for _ in stream.text_stream:
                pieces += 1
                if pieces == 20:
                    begun.release()
            return await stream.get_final_message()

    async with anthropic.AsyncAnthropic(base_url=root, api_key=case.key, max_retries=0) as client:
        tasks = [asyncio.create_task(read(client, number)) for number in range(STREAMS)]
        async with asyncio.timeout(60):
            for _ in tasks:
                await begun.acquire()
            if kill is not None:
                case.server.kill(kill)
            return list(await asyncio.gather(*tasks))


@pytest.mark.requirement("messages.survive")
async def test_messages_outlive_their_worker(start: Start) -> None:
    with start("--inference", "2") as case:
        undisturbed = await read_all(case)
        disturbed = await read_all(case, kill="inference-1")
    for one, other in zip(undisturbed, disturbed, strict=True):
        assert one.content == other.content
        assert one.stop_reason == other.stop_reason == "end_turn"
        assert one.usage == other.usage
