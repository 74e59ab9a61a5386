"""The worker of the loop on a real nats-server, with a real inference worker: what readers see."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bus import open_bus
from schemas.api.hosted import to_error
from schemas.errors import InternalError
from schemas.frames import Commit
from tests.support.inference import EDGE, running_worker
from tests.support.nats import NatsServer
from tests.support.responses import Client, serving
from tests.support.tools import Said, running_tools, scripted
from workers.responses.parts import open_parts
from workers.tools.outcome import Answer
from workers.tools.tool import Context, ServerTool


async def test_a_response_without_tools_is_one_step(server: NatsServer, caller: Client) -> None:
    async with running_worker(server), serving(server):
        told = await caller.until_ended(await caller.create("!tokens 5"))
    deltas = [kind for kind in told.types if kind == "response.output_text.delta"]
    assert told.types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    (message,) = told.response["output"]
    said = "".join(event.get("delta", "") for event in told.events)
    assert message["content"][0]["text"] == said
    assert told.response["status"] == "completed"
    assert told.response["usage"]["output_tokens"] > 0
    assert [event["sequence_number"] for event in told.events] == list(range(len(told.events)))


OWN = {"type": "mcp", "server_label": "jan"}


@asynccontextmanager
async def at_work(
    server: NatsServer, tools: Mapping[str, ServerTool], **given: Any
) -> AsyncIterator[None]:
    """Run all three workers, with these tools."""
    async with (
        running_worker(server),
        running_tools(server, tools),
        serving(server, **given),
    ):
        yield


def echo(calls: list[str]) -> ServerTool:
    """A tool that notes what it was called with, and says it again."""

    async def run(said: Said, _context: Context) -> Answer:
        calls.append(said.text)
        return Answer(f"echo {said.text}")

    return scripted(run)


async def test_calls_of_a_step_are_carried_out_at_the_same_time(
    server: NatsServer, caller: Client
) -> None:
    together = asyncio.Barrier(4)

    async def run(said: Said, _context: Context) -> Answer:
        await asyncio.wait_for(together.wait(), 10)  # one after the other, they would never meet
        return Answer(said.text)

    asked = "\n".join(f'!tool echo {{"text": "t{number}"}}' for number in range(4))
    tools = {"echo": scripted(run)}
    async with at_work(server, tools):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    calls, (message,) = told.response["output"][:-1], told.response["output"][-1:]
    assert [call["type"] for call in calls] == ["mcp_call"] * 4
    assert [call["output"] for call in calls] == ["t0", "t1", "t2", "t3"]
    assert {call["server_label"] for call in calls} == {"jan"}
    assert message["content"][0]["text"].count("echo answered") == 4
    assert told.response["status"] == "completed"


async def test_without_parallel_tool_calls_they_come_one_after_the_other(
    server: NatsServer, caller: Client
) -> None:
    running = 0

    async def run(said: Said, _context: Context) -> Answer:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        running -= 1
        return Answer(said.text)

    asked = '!tool echo {"text": "a"}\n!rounds 3'
    tools = {"echo": scripted(run)}
    async with at_work(server, tools):
        run_id = await caller.create(asked, tools=[OWN], parallel_tool_calls=False)
        told = await caller.until_ended(run_id)
    assert [item["type"] for item in told.response["output"]] == [*["mcp_call"] * 3, "message"]


async def test_events_of_a_call_come_in_their_order(server: NatsServer, caller: Client) -> None:
    async with at_work(server, {"echo": echo([])}):
        run_id = await caller.create('!tool echo {"text": "a"}', tools=[OWN])
        told = await caller.until_ended(run_id)
    of_call = [event["type"] for event in told.events if event.get("output_index") == 0]
    deltas = [kind for kind in of_call if kind.endswith(".delta")]
    assert of_call == [
        "response.output_item.added",
        "response.mcp_call.in_progress",
        *deltas,
        "response.mcp_call_arguments.done",
        "response.mcp_call.completed",
        "response.output_item.done",
    ]
    assert [event["sequence_number"] for event in told.events] == list(range(len(told.events)))


async def test_a_model_that_calls_for_ever_is_stopped(server: NatsServer, caller: Client) -> None:
    calls: list[str] = []
    asked = '!tool echo {"text": "again"}\n!rounds 99'
    async with at_work(server, {"echo": echo(calls)}, response_depth=4):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    assert len(calls) == 3  # the fourth step is offered no tools
    assert told.response["status"] == "incomplete"
    assert told.response["incomplete_details"] == {"reason": "max_tool_calls"}
    assert told.response["output"][-1]["status"] == "failed"


async def test_max_tool_calls_bounds_what_is_carried_out(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    asked = "\n".join(f'!tool echo {{"text": "t{number}"}}' for number in range(4))
    async with at_work(server, {"echo": echo(calls)}):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN], max_tool_calls=2))
    assert sorted(calls) == ["t0", "t1"]
    statuses = [item["status"] for item in told.response["output"]]
    assert statuses == ["completed", "completed", "failed", "failed", "completed"]


async def test_an_unknown_tool_is_told_to_the_model(server: NatsServer, caller: Client) -> None:
    async with at_work(server, {"echo": echo([])}):
        run_id = await caller.create('!tool nothing {"a": 1}', tools=[OWN])
        told = await caller.until_ended(run_id)
    # No `function_call`: clients would carry that out.
    call, message = told.response["output"]
    assert (call["type"], call["name"], call["status"]) == ("mcp_call", "nothing", "failed")
    assert call["error"] == to_error("There is no tool 'nothing'. There are: echo.")
    assert "nothing answered: There is no tool" in message["content"][0]["text"]


async def test_results_are_told_in_the_order_of_the_calls_however_they_come_back(
    server: NatsServer, caller: Client
) -> None:
    second = asyncio.Event()

    async def run(said: Said, _context: Context) -> Answer:
        if said.text == "first":
            await second.wait()
        second.set()
        return Answer(said.text)

    asked = '!tool echo {"text": "first"}\n!tool echo {"text": "second"}'
    async with at_work(server, {"echo": scripted(run)}):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    results = [m["content"] for m in told.fold.to_messages() if m["role"] == "tool"]
    assert results == ["first", "second"]


async def test_a_call_that_waits_for_a_worker_loses_none_of_its_own_time(
    server: NatsServer, caller: Client
) -> None:
    async def run(said: Said, _context: Context) -> Answer:
        await asyncio.sleep(1.0)
        return Answer(said.text)

    asked = "\n".join(f'!tool echo {{"text": "t{number}"}}' for number in range(3))
    async with (
        running_worker(server),
        running_tools(server, {"echo": scripted(run, timeout=2.0)}, tools_slots={"mcp": 1}),
        serving(server),
    ):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    calls = told.response["output"][:-1]
    assert [call.get("output") for call in calls] == ["t0", "t1", "t2"]


async def test_an_output_that_is_too_large_ends_its_response_alone(
    server: NatsServer, caller: Client
) -> None:
    async with at_work(server, {"echo": echo([])}, response_bytes=65536):
        large = await caller.until_ended(await caller.create("!tokens 40000\n!pace 0"))
        small = await caller.until_ended(await caller.create("hello"))
    assert large.response["status"] == "failed"
    assert "of 65536 that it may have: output[0] is cut short" in large.response["error"]["message"]
    (message,) = large.response["output"]
    assert message["status"] == "incomplete"
    streamed = "".join(event.get("delta", "") for event in large.events)
    assert streamed.startswith(message["content"][0]["text"])
    assert len(message["content"][0]["text"]) > 60_000
    assert small.response["status"] == "completed"


async def test_of_an_output_that_is_too_large_the_items_left_out_are_counted(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    asked = f'!tool echo {{"text": "{"x" * 4000}"}}\n!rounds 20'
    async with at_work(server, {"echo": echo(calls)}, response_bytes=65536, response_depth=20):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    assert told.response["status"] == "failed"
    whole = [event["item"] for event in told.events if event["type"].endswith("item.done")]
    kept = told.response["output"]
    assert kept == whole[: len(kept)]
    left_out = f"items left out: {len(whole) - len(kept)} of {len(whole)}"
    assert told.response["error"]["message"].endswith(left_out)
    assert len(calls) < 20  # it ends once the output is too large


async def test_the_calls_of_a_step_that_says_too_much_are_not_carried_out(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    asked = "\n".join(f'!tool echo {{"text": "{"x" * 4000}"}}' for _ in range(20))
    async with at_work(server, {"echo": echo(calls)}, response_bytes=65536):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN]))
    assert told.response["status"] == "failed"
    assert {item["status"] for item in told.response["output"]} == {"failed"}
    assert not calls


async def test_a_cancelled_response_tells_what_of_it_is_left_out(
    server: NatsServer, caller: Client
) -> None:
    async with running_worker(server), serving(server, response_bytes=65536):
        run_id = await caller.create("!tokens 60000\n!pace 0\n!stall 40000")
        await caller.until(run_id, lambda told: len(told.events) > 30_000)
        await caller.cancel(run_id)
        told = await caller.until_ended(run_id)
    assert told.response["status"] == "cancelled"
    assert "output[0] is cut short" in told.response["error"]["message"]


async def test_broken_arguments_are_told_to_the_model(server: NatsServer, caller: Client) -> None:
    calls: list[str] = []
    async with at_work(server, {"echo": echo(calls)}):
        run_id = await caller.create('!tool echo {"text": 5}', tools=[OWN])
        told = await caller.until_ended(run_id)
    assert not calls
    call, _ = told.response["output"]
    assert call["status"] == "failed"
    assert "text" in call["error"]["content"][0]["text"]
    assert told.response["status"] == "completed"


async def test_a_function_of_the_clients_ends_the_response(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    function = {"type": "function", "name": "mine", "parameters": {"type": "object"}}
    asked = '!tool mine {"a": 1}\n!tool echo {"text": "t"}'
    async with at_work(server, {"echo": echo(calls)}):
        told = await caller.until_ended(await caller.create(asked, tools=[OWN, function]))
    assert told.response["status"] == "completed"
    assert [item["type"] for item in told.response["output"]] == ["function_call", "mcp_call"]
    assert told.response["output"][0]["arguments"] == '{"a": 1}'
    assert calls == ["t"]  # what the server can answer it does


async def test_a_step_whose_word_is_lost_is_found_by_a_look_at_its_frames(
    server: NatsServer, caller: Client
) -> None:
    async with serving(server), open_bus(server.url("responses"), name="looks") as bus:
        run_id = await caller.create("hello")  # no inference worker is there
        begun = await caller.until(run_id, lambda told: told.fold.step is not None)
        assert begun.fold.step is not None
        async with open_parts(bus, "nobody-hears") as parts:
            step = begun.fold.step.run_id
            assert not await parts.is_over(EDGE, step)
            error = InternalError("it is broken")
            await parts.end(EDGE, step, Commit(status="failed"), error.to_wire())
            assert await parts.is_over(EDGE, step)
        told = await caller.until_ended(run_id)
    assert told.response["error"]["message"] == "it is broken"


async def test_another_worker_goes_on_without_repeating_a_step_or_a_call(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    called, may_answer = asyncio.Event(), asyncio.Event()

    async def run(said: Said, _context: Context) -> Answer:
        calls.append(said.text)
        called.set()
        await asyncio.wait_for(may_answer.wait(), 20)
        return Answer("done")

    tools = {"echo": scripted(run, idempotent=False)}
    async with running_worker(server), running_tools(server, tools):
        async with serving(server, "responses-1"):
            run_id = await caller.create('!tool echo {"text": "once"}', tools=[OWN])
            await asyncio.wait_for(called.wait(), 10)
        async with serving(server, "responses-2"):
            may_answer.set()
            told = await caller.until_ended(run_id)
    assert calls == ["once"]
    assert [item["type"] for item in told.response["output"]] == ["mcp_call", "message"]
    assert told.fold.steps == 2
    assert [event["sequence_number"] for event in told.events] == list(range(len(told.events)))


async def test_a_cancel_stops_the_step_that_is_at_work(server: NatsServer, caller: Client) -> None:
    async with running_worker(server), serving(server):
        run_id = await caller.create("!tokens 2000\n!pace 20")
        await caller.until(run_id, lambda told: "response.output_text.delta" in told.types)
        await caller.cancel(run_id)
        told = await caller.until_ended(run_id)
    assert told.response["status"] == "cancelled"
    (message,) = told.response["output"]
    assert message["status"] == "incomplete"
    assert message["content"][0]["text"]
    assert told.types[-1] == "response.incomplete"


async def test_a_cancel_stops_the_tools_that_are_at_work(
    server: NatsServer, caller: Client
) -> None:
    called, stopped = asyncio.Event(), asyncio.Event()

    async def run(_said: Said, _context: Context) -> Answer:
        called.set()
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()
        return Answer("never")

    async with at_work(server, {"echo": scripted(run)}):
        run_id = await caller.create('!tool echo {"text": "t"}', tools=[OWN])
        await asyncio.wait_for(called.wait(), 10)
        await caller.cancel(run_id)
        told = await caller.until_ended(run_id)
        await asyncio.wait_for(stopped.wait(), 10)
    assert told.response["status"] == "cancelled"
    assert told.response["output"][0]["status"] == "failed"


async def test_a_model_that_fails_at_once_is_a_status_and_later_an_event(
    server: NatsServer, caller: Client
) -> None:
    async with running_worker(server), serving(server):
        refused = await caller.until_ended(await caller.create("!fail 400"))
        broken = await caller.until_ended(await caller.create("!fail 500 5"))
    assert refused.fold.ended is not None
    assert refused.fold.ended.refusal == 400
    assert refused.types[-1] == "response.failed"
    assert broken.fold.ended is not None
    assert broken.fold.ended.refusal == 0
    assert broken.response["error"]["code"] == "server_error"
    assert broken.response["output"][0]["status"] == "incomplete"


async def test_an_answer_that_breaks_its_schema_is_corrected_before_it_is_told(
    server: NatsServer, caller: Client
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "thing", "schema": schema}
    async with running_worker(server), serving(server):
        run_id = await caller.create("anything", text={"format": form}, prepared={"in_words": True})
        told = await caller.until_ended(run_id)
    # The simulated model never learns it: it is asked once more, and then told as it is.
    assert told.fold.steps == 2
    assert told.fold.corrections == 1
    assert [item["type"] for item in told.response["output"]] == ["message"]


async def test_a_tool_that_needs_approval_is_asked_about_and_then_called(
    server: NatsServer, caller: Client
) -> None:
    calls: list[str] = []
    tool = OWN | {"require_approval": {"always": {}}}
    async with at_work(server, {"echo": echo(calls)}):
        asked = await caller.until_ended(
            await caller.create('!tool echo {"text": "t"}', tools=[tool])
        )
        (request,) = asked.response["output"]
        assert request["type"] == "mcp_approval_request"
        assert not calls
        answer = {
            "type": "mcp_approval_response",
            "approval_request_id": request["id"],
            "approve": True,
        }
        context = [request | {"status": "completed"}]
        run_id = await caller.create(input=[answer], tools=[tool], prepared={"context": context})
        told = await caller.until_ended(run_id)
    assert calls == ["t"]
    call = told.response["output"][0]
    assert (call["type"], call["approval_request_id"]) == ("mcp_call", request["id"])
    assert told.response["status"] == "completed"


async def test_calls_that_were_approved_together_are_one_message_to_the_model(
    server: NatsServer, caller: Client
) -> None:
    tool = OWN | {"require_approval": "always"}
    asked = [
        {
            "type": "mcp_approval_request",
            "id": f"mcpr_{text}",
            "server_label": "jan",
            "name": "echo",
            "arguments": f'{{"text": "{text}"}}',
        }
        for text in ("a", "b", "c")
    ]
    answers = [
        {
            "type": "mcp_approval_response",
            "approval_request_id": request["id"],
            "approve": request["id"] != "mcpr_b",
        }
        for request in asked
    ]
    async with at_work(server, {"echo": echo([])}):
        run_id = await caller.create(input=[*asked, *answers], tools=[tool])
        told = await caller.until_ended(run_id)
    calls, first, second = told.fold.to_messages()[:3]
    assert len(calls["tool_calls"]) == 2
    assert (first["content"], second["content"]) == ("echo a", "echo c")


async def test_every_reader_sees_the_same_events_from_any_number_on(
    server: NatsServer, caller: Client
) -> None:
    asked = '!tool echo {"text": "a"}\n!rounds 2'
    async with at_work(server, {"echo": echo([])}):
        run_id = await caller.create(asked, tools=[OWN])
        whole = await caller.until_ended(run_id)
    for after in range(len(whole.events)):
        assert (await caller.read(run_id, after)).events == whole.events[after + 1 :]
