"""The bus dies while requests are accepted and served: none is lost, none is done twice."""

import asyncio
from collections import Counter

import openai
import pytest

from tests.faults.conftest import Start
from tests.support.upstream_process import UpstreamProcess, running_upstream

REQUESTS = 60
PROVIDERS = """
providers:
  - name: counted
    kind: openai
    base_url: {url}
    models:
      - {{id: counted, served_name: test-model, capabilities: [chat]}}
"""


async def ask(client: openai.AsyncOpenAI, number: int) -> str:
    """One request, repeated by the SDK under the same key as long as the server says to."""
    answer = await client.chat.completions.create(
        model="counted",
        messages=[{"role": "user", "content": f"Request <{number}>\n!ttft {number * 20}"}],
        extra_headers={"Idempotency-Key": f"once-{number}"},
    )
    return answer.choices[0].message.content or ""


def finished_calls(upstream: UpstreamProcess) -> Counter[int]:
    """How often the upstream served each request to its end."""
    ended = [upstream.calls(f"Request <{number}>") for number in range(REQUESTS)]
    return Counter(
        {
            number: sum(call["ended_at"] is not None for call in ended[number])
            for number in range(60)
        }
    )


@pytest.mark.requirement("faults.once")
async def test_what_was_accepted_is_done_exactly_once(start: Start) -> None:
    with (
        running_upstream() as upstream,
        start(providers=PROVIDERS.format(url=upstream.base_url)) as case,
    ):
        async with openai.AsyncOpenAI(
            base_url=case.server.url, api_key=case.key, max_retries=12, timeout=30
        ) as client:
            asking = [asyncio.create_task(ask(client, number)) for number in range(REQUESTS)]
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert done
            case.server.kill("nats")
            texts = await asyncio.gather(*asking)
        assert all(texts)
        calls = finished_calls(upstream)
    assert calls == dict.fromkeys(range(REQUESTS), 1)
