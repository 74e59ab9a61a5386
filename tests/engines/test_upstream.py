"""The scripted upstream as a process, steered over HTTP as the tests of faults do."""

import asyncio
import sys

import httpx
import msgspec


async def test_it_runs_as_a_process_and_tells_its_calls() -> None:
    command = (sys.executable, "-m", "tests.support.upstream", "--model", "a", "--model", "b")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    ready = msgspec.json.decode(await asyncio.wait_for(process.stdout.readline(), 30))
    body = {"model": "a", "messages": [{"role": "user", "content": "hello\n!tokens 9"}]}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ready['port']}") as client:
        models = (await client.get("/v1/models")).json()
        assert [model["id"] for model in models["data"]] == ["a", "b"]

        script = [{"kind": "fail", "status": 429, "headers": {"Retry-After": "3"}}]
        assert (await client.post("/control/script", json=script)).status_code == 200
        assert (await client.post("/control/script", json=[{"kind": "x"}])).status_code == 400
        refused = await client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")

        slow = {**body, "stream": True}
        slow["messages"] = [{"role": "user", "content": "!pace 50\n!tokens 500"}]
        async with client.stream("POST", "/v1/chat/completions", json=slow) as answer:
            assert answer.status_code == 200
        told = (await client.get("/control/calls")).json()
        assert [call["body"] for call in told["calls"]] == [body, slow]
        assert told["calls"][0]["ended_at"] is not None

        await client.post("/control/reset")
        assert (await client.get("/control/calls")).json() == {"calls": [], "open": 0}
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 10) == 0
