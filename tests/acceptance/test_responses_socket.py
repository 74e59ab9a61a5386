"""The WebSocket at /v1/responses, with a real client of another make."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.acceptance.test_prompts import new_prompt
from tests.support.server import openai_client
from tests.support.upstream_process import UpstreamProcess

Talk = Callable[..., Any]


@contextmanager
def opened(server: LaunchedServer, key: str) -> Iterator[ClientConnection]:
    url = server.url.replace("http://", "ws://") + "/responses"
    with connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
        yield socket


def ask(socket: ClientConnection, **body: Any) -> None:
    socket.send(json.dumps({"type": "response.create", "model": SIMULATED, **body}))


def read(socket: ClientConnection) -> list[dict[str, Any]]:
    """The events of a response, or the one error."""
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] not in (
        "response.completed",
        "response.failed",
        "response.incomplete",
        "error",
    ):
        events.append(json.loads(socket.recv(timeout=20)))
    return events


@pytest.fixture
def say(server: LaunchedServer, api_key: str) -> Iterator[Talk]:
    """Have a response made on one connection, which is not stored unless `store` says so."""
    with opened(server, api_key) as socket:

        def say(asked: Any, before: Any = None, **more: Any) -> Any:
            told = {"model": SCRIPTED, "input": asked, "store": False, **more}
            ask(socket, **told | ({"previous_response_id": before["id"]} if before else {}))
            last = read(socket)[-1]
            return last if last["type"] == "error" else last["response"]

        yield say


def stored(client: openai.OpenAI, asked: Any, **more: Any) -> dict[str, Any]:
    """Have a response made and stored over HTTP."""
    return client.responses.create(**{"model": SCRIPTED, "input": asked, **more}).to_dict()


def heard(upstream: UpstreamProcess, asked: str) -> list[tuple[str, str]]:
    """What the model was told when it was asked this last."""
    messages = upstream.call(asked)["body"]["messages"]
    return [(message["role"], message["content"]) for message in messages]


def turn(asked: str, response: Any) -> list[tuple[str, str]]:
    """What was asked and what was answered."""
    return [("user", asked), ("assistant", text_of(response))]


def text_of(response: Any) -> str:
    text: str = response["output"][-1]["content"][0]["text"]
    return text


@pytest.mark.requirement("responses.socket")
def test_responses_follow_each_other_on_one_connection(
    server: LaunchedServer, api_key: str
) -> None:
    with opened(server, api_key) as socket:
        for text in ("one", "two"):
            ask(socket, input=text)
            events = read(socket)
            assert events[-1]["type"] == "response.completed"
            numbers = [event["sequence_number"] for event in events]
            assert numbers == list(range(len(events)))


@pytest.mark.requirement("responses.socket.chain")
def test_what_is_not_stored_is_gone_on_with_on_the_same_connection(
    server: LaunchedServer, api_key: str, client: openai.OpenAI
) -> None:
    with opened(server, api_key) as socket:
        ask(socket, input="Remember nine.", store=False)
        first = read(socket)[-1]["response"]
        ask(socket, input="What was it?", store=False, previous_response_id=first["id"])
        second = read(socket)[-1]["response"]
    assert second["previous_response_id"] == first["id"]
    alone = client.responses.create(model=SIMULATED, input="What was it?", store=False)
    assert alone.usage is not None
    assert second["usage"]["input_tokens"] > alone.usage.input_tokens + 5


@pytest.mark.requirement("responses.socket.chain")
@pytest.mark.parametrize("way", ["http", "socket"])
def test_what_is_not_stored_goes_on_from_what_is_and_the_other_way_round(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess, way: str
) -> None:
    asked = [f"{way}-chain {number}" for number in range(6)]
    first = stored(client, asked[0]) if way == "http" else say(asked[0], store=True)
    made = [stored(client, asked[1], previous_response_id=first["id"])]
    spoken = turn(asked[0], first) + turn(asked[1], made[0])
    for number, store in ((2, False), (3, False), (4, True), (5, False)):
        made.append(say(asked[number], made[-1], store=store))
        assert heard(upstream, asked[number]) == [*spoken, ("user", asked[number])]
        assert made[-1]["previous_response_id"] == made[-2]["id"]
        spoken += turn(asked[number], made[-1])


@pytest.mark.requirement("responses.socket.chain")
@pytest.mark.parametrize("deleted", [0, 1])
def test_a_stored_response_that_was_deleted_meanwhile_is_left_out(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess, deleted: int
) -> None:
    asked = [f"deleted-{deleted} {number}" for number in range(4)]
    first = stored(client, asked[0])
    second = stored(client, asked[1], previous_response_id=first["id"])
    third = say(asked[2], second)
    client.responses.delete((first, second)[deleted]["id"])
    say(asked[3], third)
    left = turn(asked[1], second) if deleted == 0 else turn(asked[0], first)
    assert heard(upstream, asked[3]) == [*left, *turn(asked[2], third), ("user", asked[3])]


@pytest.mark.requirement("responses.socket.chain")
@pytest.mark.parametrize("store", [True, False])
def test_one_that_failed_is_gone_on_from_only_if_it_is_stored(
    say: Talk, upstream: UpstreamProcess, store: bool
) -> None:
    asked = [f"failing {number}, {store}" for number in range(2)]
    first = say(asked[0])
    failed = say("Fail.\n!fail 500 2", first, store=store)
    assert failed["status"] == "failed"
    last = say(asked[1], failed)
    if not store:
        assert last["error"]["code"] == "previous_response_not_found"
        return
    spoken = heard(upstream, asked[1])
    assert spoken[:2] == turn(asked[0], first)
    assert spoken[2][1].startswith("Fail.")
    assert spoken[-1] == ("user", asked[1])


@pytest.mark.requirement("responses.socket.chain")
def test_nobody_goes_on_from_what_is_another_s_or_was_deleted(
    server: LaunchedServer, client: openai.OpenAI, say: Talk
) -> None:
    with openai_client(server.url, server.create_key("--name", "another")) as other:
        anothers = stored(other, "Another's.", model=SIMULATED)
    gone = stored(client, "Gone.", model=SIMULATED)
    client.responses.delete(gone["id"])
    for before in (anothers, gone):
        error = say("Go on.", before)["error"]
        assert error["code"] == "previous_response_not_found"
        assert error["param"] == "previous_response_id"
        assert before["id"] in error["message"]
    assert say("Still here?", model=SIMULATED)["status"] == "completed"


@pytest.mark.requirement("responses.socket.chain")
def test_what_an_input_refers_to_is_known_later_too(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess
) -> None:
    first = stored(client, "Refer to this by socket.")
    named = {"type": "item_reference", "id": first["output"][0]["id"]}
    second = say([named, {"role": "user", "content": "Which by socket?"}])
    say("And by socket?", second)
    assert heard(upstream, "And by socket?") == [
        ("assistant", text_of(first)),
        *turn("Which by socket?", second),
        ("user", "And by socket?"),
    ]


@pytest.mark.requirement("responses.socket.chain")
@pytest.mark.parametrize("store", [True, False])
def test_a_prompt_s_messages_are_told_once_stored_or_not(
    http: httpx.Client, say: Talk, upstream: UpstreamProcess, store: bool
) -> None:
    prompt = new_prompt(http, template="Speak like a pirate.")
    asked = [f"prompted {number}, {store}" for number in range(2)]
    first = say(asked[0], prompt={"id": prompt["id"]}, store=store)
    assert heard(upstream, asked[0])[0] == ("system", "Speak like a pirate.")
    say(asked[1], first)
    assert heard(upstream, asked[1]) == [*turn(asked[0], first), ("user", asked[1])]


@pytest.mark.requirement("responses.socket.chain")
def test_a_conversation_is_gone_on_with_as_it_was(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess
) -> None:
    asked = [f"aside {number}" for number in range(4)]
    conversation = client.conversations.create().id
    first = stored(client, asked[0], conversation=conversation)
    aside = say(asked[1], conversation=conversation)
    stored(client, "Meanwhile.", conversation=conversation)
    second = say(asked[2], aside)
    say(asked[3], second)
    spoken = [*turn(asked[0], first), *turn(asked[1], aside), *turn(asked[2], second)]
    assert heard(upstream, asked[2]) == [*spoken[:4], ("user", asked[2])]
    assert heard(upstream, asked[3]) == [*spoken, ("user", asked[3])]
    assert second["conversation"] is None


@pytest.mark.requirement("responses.socket.chain")
def test_a_conversation_that_was_deleted_meanwhile_is_left_out(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    stored(client, "Hello, for now.", conversation=conversation)
    aside = say("Aside, for now.", conversation=conversation)
    client.conversations.delete(conversation)
    say("Without it.", aside)
    assert heard(upstream, "Without it.") == [
        *turn("Aside, for now.", aside),
        ("user", "Without it."),
    ]


@pytest.mark.requirement("responses.socket.chain")
def test_a_function_that_was_called_in_a_conversation_is_answered_aside(
    client: openai.OpenAI, say: Talk, upstream: UpstreamProcess
) -> None:
    more: Any = {
        "conversation": client.conversations.create().id,
        "tools": [{"type": "function", "name": "ask_sea", "parameters": {}, "strict": False}],
    }
    (call,) = stored(client, "!tool ask_sea {}", **more)["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "flat"}
    aside = say([output], **more)
    say("Was it flat?", aside)
    roles = [role for role, _ in heard(upstream, "Was it flat?")]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.requirement("responses.socket.chain")
def test_an_approval_that_a_stored_response_asked_for_is_given_later_and_once(
    client: openai.OpenAI, say: Talk
) -> None:
    more: Any = {
        "model": SIMULATED,
        "tools": [{"type": "mcp", "server_label": "jan", "require_approval": "always"}],
    }
    first = stored(client, "Look it up.", tool_choice="required", **more)
    asked = first["output"][-1]["id"]
    allowed = [{"type": "mcp_approval_response", "approval_request_id": asked, "approve": True}]
    second = say("Wait for me.", first, **more)
    third = say(allowed, second, **more)
    assert third["output"][0]["approval_request_id"] == asked
    error = say(allowed, third, **more)["error"]
    assert error["message"] == "'input[0].approval_request_id': this was answered before"


@pytest.mark.requirement("responses.socket")
def test_what_is_wrong_is_told_and_the_connection_goes_on(
    server: LaunchedServer, api_key: str
) -> None:
    with opened(server, api_key) as socket:
        for body, param in (
            ({"input": "x", "temperature": 9}, "temperature"),
            ({"input": "x", "stream": True}, "stream"),
        ):
            ask(socket, **body)
            (error,) = read(socket)
            assert error["status"] == 400
            assert error["error"]["param"] == param
        socket.send("no JSON")
        assert read(socket)[0]["error"]["code"] == "invalid_json"
        ask(socket, input="x")
        assert read(socket)[-1]["type"] == "response.completed"


@pytest.mark.requirement("responses.socket")
def test_a_second_response_has_to_wait_for_the_first(server: LaunchedServer, api_key: str) -> None:
    with opened(server, api_key) as socket:
        ask(socket, model=SCRIPTED, input="Tell a story.")
        assert json.loads(socket.recv(timeout=20))["type"] == "response.created"
        ask(socket, input="Me too.")
        events = [json.loads(socket.recv(timeout=20))]
        while events[-1]["type"] != "error":
            events.append(json.loads(socket.recv(timeout=20)))
        assert events[-1]["error"]["code"] == "response_in_progress"
        assert read(socket)[-1]["type"] == "response.completed"


@pytest.mark.requirement("responses.socket")
def test_nobody_gets_in_without_a_credential(server: LaunchedServer) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(server, "sk_wrong"):
        pass
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
