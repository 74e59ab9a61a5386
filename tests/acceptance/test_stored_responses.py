"""Stored responses with the real SDK: read again, paged, gone on with, deleted; counted once."""

import base64
import json
from typing import Any

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.command import jan
from tests.support.server import eventually, http_client, openai_client, running_server
from tests.support.upstream_process import UpstreamProcess


def respond(client: openai.OpenAI, text: Any, **more: Any) -> Any:
    return client.responses.create(**{"model": SCRIPTED, "input": text, **more})


def sent(upstream: UpstreamProcess, text: str) -> list[tuple[str, str]]:
    """What the upstream was told in the one call whose last message has this text."""
    messages = upstream.call(text)["body"]["messages"]
    return [(message["role"], message["content"]) for message in messages]


def texts(page: Any) -> list[str]:
    return [item.content[0].text for item in page]


@pytest.mark.requirement("responses.retrieve")
@pytest.mark.parametrize("background", [False, True])
def test_a_stored_response_is_read_as_it_was_answered_on_any_edge(
    server: LaunchedServer, client: openai.OpenAI, api_key: str, background: bool
) -> None:
    made = respond(client, "Keep this.", background=background, model=SIMULATED)
    with openai_client(server.edges[1], api_key) as other:
        found = eventually(
            lambda: (
                (one := other.responses.retrieve(made.id)).status not in ("queued", "in_progress")
                and one
            )
        )
    assert found.status == "completed"
    if not background:
        assert found == made


@pytest.mark.requirement("responses.retrieve")
def test_one_that_is_just_ending_is_there_all_the_time(
    server: LaunchedServer, client: openai.OpenAI, api_key: str
) -> None:
    ended = []
    with openai_client(server.edges[1], api_key) as other:
        for _ in range(20):
            made = respond(client, "Keep this.", background=True, model=SIMULATED)
            while (found := other.responses.retrieve(made.id)).status != "completed":
                pass
            ended.append(found == other.responses.retrieve(made.id))
    assert ended == [True] * 20


@pytest.mark.requirement("responses.retrieve")
def test_one_that_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    made = respond(client, "Forget this.", store=False, model=SIMULATED)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError) as refused:
        respond(client, "Go on.", previous_response_id=made.id)
    assert (refused.value.param, refused.value.code) == (
        "previous_response_id",
        "previous_response_not_found",
    )


@pytest.mark.requirement("responses.previous")
def test_one_that_is_not_to_be_stored_is_not_gone_on_from_while_it_is_at_work(
    client: openai.OpenAI,
) -> None:
    asked = "!tokens 500\n!pace 20"
    with client.responses.create(model=SCRIPTED, input=asked, store=False, stream=True) as stream:
        made = next(iter(stream)).response.id
        with pytest.raises(openai.NotFoundError) as refused:
            respond(client, "Go on.", previous_response_id=made)
    error = refused.value
    assert (error.param, error.code) == ("previous_response_id", "previous_response_not_found")
    assert f"there is no response {made}" in error.message


@pytest.mark.requirement("responses.input_items")
def test_what_was_asked_is_listed_in_pages(client: openai.OpenAI) -> None:
    asked: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    made = respond(client, asked, model=SIMULATED)
    listed = client.responses.input_items.list(made.id, limit=2)
    assert texts(listed.data) == ["4", "3"]
    assert texts(client.responses.input_items.list(made.id, limit=2)) == list("43210")
    oldest = client.responses.input_items.list(made.id, order="asc", after=listed.data[1].id)
    assert texts(oldest) == ["4"]


@pytest.mark.requirement("responses.previous")
def test_a_chain_of_three_is_gone_on_with(client: openai.OpenAI, upstream: UpstreamProcess) -> None:
    first = respond(client, "Chain one.", instructions="Be brief.")
    second = respond(client, "Chain two.", previous_response_id=first.id)
    third = respond(client, "Chain three.", previous_response_id=second.id, stream=False)
    assert sent(upstream, "Chain three.") == [
        ("user", "Chain one."),
        ("assistant", first.output_text),
        ("user", "Chain two."),
        ("assistant", second.output_text),
        ("user", "Chain three."),
    ]
    assert third.previous_response_id == second.id


@pytest.mark.requirement("responses.previous")
@pytest.mark.parametrize("going_on", ["conversation", "previous_response_id"])
def test_a_model_that_says_nul_is_gone_on_with(
    client: openai.OpenAI, upstream: UpstreamProcess, going_on: str
) -> None:
    said = {"choices": [{"index": 0, "delta": {"content": "nul \0"}, "finish_reason": "stop"}]}
    stream = f"data: {json.dumps(said)}\n\ndata: [DONE]\n\n".encode()
    upstream.script({"kind": "body", "pieces": [base64.b64encode(stream).decode()]})
    conversation = client.conversations.create().id
    first = respond(client, "Say nul.", conversation=conversation)
    assert first.output_text == "nul \0"
    before = {"conversation": conversation, "previous_response_id": first.id}[going_on]
    second = respond(client, f"And then, by {going_on}?", **{going_on: before})
    assert second.status == "completed"
    assert ("assistant", "nul \0") in sent(upstream, f"And then, by {going_on}?")


@pytest.mark.requirement("responses.previous")
def test_an_item_is_referred_to(client: openai.OpenAI, upstream: UpstreamProcess) -> None:
    first = respond(client, "Refer to this.")
    named: Any = {"type": "item_reference", "id": first.output[0].id}
    respond(client, [named, {"role": "user", "content": "Which?"}])
    assert sent(upstream, "Which?") == [("assistant", first.output_text), ("user", "Which?")]
    missing: Any = [{"role": "user", "content": "x"}, {"type": "item_reference", "id": "msg_no"}]
    with pytest.raises(openai.NotFoundError) as refused:
        respond(client, missing)
    assert refused.value.param == "input[1].id"


@pytest.mark.requirement("responses.conversation")
def test_responses_and_chats_share_a_conversation(
    client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    first = respond(client, "Mixed one.", conversation=conversation)
    chat = client.chat.completions.create(
        model=SCRIPTED,
        messages=[{"role": "user", "content": "Mixed two."}],
        extra_body={"conversation": conversation},
    )
    second = respond(client, "Mixed three.", conversation=conversation)
    spoken = [
        ("user", "Mixed one."),
        ("assistant", first.output_text),
        ("user", "Mixed two."),
        ("assistant", chat.choices[0].message.content),
        ("user", "Mixed three."),
    ]
    assert sent(upstream, "Mixed three.") == spoken
    items: Any = list(client.conversations.items.list(conversation, order="asc"))
    said = [(item.role, item.content[0].text) for item in items]
    assert said == [*spoken, ("assistant", second.output_text)]
    assert first.conversation.id == conversation
    assert items[1].id == first.output[0].id


@pytest.mark.requirement("responses.conversation")
def test_a_chain_knows_what_its_conversation_had_before_it(
    client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    first = respond(client, "Begun one.", conversation=conversation)
    again = {"type": "item_reference", "id": first.output[0].id}
    asked: Any = [again, {"role": "user", "content": "Begun two."}]
    second = respond(client, asked, conversation=conversation)
    respond(client, "Later.", conversation=conversation)
    third = respond(client, "Aside three.", previous_response_id=second.id)
    respond(client, "Aside four.", previous_response_id=third.id)
    spoken = [
        ("user", "Begun one."),
        ("assistant", first.output_text),
        ("assistant", first.output_text),
        ("user", "Begun two."),
        ("assistant", second.output_text),
        ("user", "Aside three."),
        ("assistant", third.output_text),
        ("user", "Aside four."),
    ]
    assert sent(upstream, "Aside four.") == spoken
    assert len(list(client.conversations.items.list(conversation))) == 7
    client.conversations.delete(conversation)
    respond(client, "Aside five.", previous_response_id=third.id)
    assert sent(upstream, "Aside five.")[:4] == spoken[2:6]


@pytest.mark.requirement("responses.approval")
def test_a_call_is_approved_in_its_conversation_once(client: openai.OpenAI) -> None:
    more: Any = {
        "conversation": client.conversations.create().id,
        "model": SIMULATED,
        "tools": [{"type": "mcp", "server_label": "jan", "require_approval": "always"}],
    }
    asked = respond(client, "Look it up.", tool_choice="required", **more).output[-1]
    assert asked.type == "mcp_approval_request"
    allowed: Any = {"type": "mcp_approval_response", "approval_request_id": asked.id}
    call = respond(client, [allowed | {"approve": True}], **more).output[0]
    assert (call.type, call.approval_request_id) == ("mcp_call", asked.id)
    with pytest.raises(openai.BadRequestError) as refused:
        respond(client, [allowed | {"approve": True}], **more)
    assert refused.value.param == "input[0].approval_request_id"


@pytest.mark.requirement("responses.delete")
def test_a_deleted_response_is_gone(
    client: openai.OpenAI, http: httpx.Client, server: LaunchedServer
) -> None:
    conversation = client.conversations.create().id
    made = respond(client, "Delete this.", conversation=conversation, model=SIMULATED)
    path = f"/v1/responses/{made.id}"
    answer = http.delete(path)
    assert answer.json() == {"id": made.id, "object": "response.deleted", "deleted": True}

    def is_erased() -> bool:
        events = http.get(f"/v1/runs/{made.id}/events", params={"stream": "false"}).json()["data"]
        return "run.finished" not in [event["type"] for event in events]

    for when in ("at once", "when it is erased"):
        for method, asked in (("GET", path), ("GET", f"{path}/input_items"), ("DELETE", path)):
            assert http.request(method, asked).status_code == 404, (when, method, asked)
        with pytest.raises(openai.NotFoundError):
            respond(client, "Go on.", previous_response_id=made.id)
        eventually(is_erased)
    assert len(list(client.conversations.items.list(conversation))) == 2
    with http_client(server.edges[1], "nobody") as stranger:
        assert stranger.delete(path).status_code == 401


@pytest.mark.requirement("responses.cancel")
def test_a_cancelled_response_keeps_what_it_had(client: openai.OpenAI) -> None:
    made = respond(client, "!tokens 5000", background=True, model=SIMULATED)
    started = eventually(lambda: client.responses.retrieve(made.id).output)
    assert started
    client.responses.cancel(made.id)
    found = eventually(
        lambda: (one := client.responses.retrieve(made.id)).status == "cancelled" and one
    )
    assert found.output[0].status == "incomplete"
    assert found.output_text
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(respond(client, "x", model=SIMULATED).id)


@pytest.mark.requirement("responses.usage")
def test_what_a_response_has_used_is_counted_once(server: LaunchedServer) -> None:
    key = server.create_key("--name", "counted")
    with openai_client(server.url, key) as client, http_client(server.url, key) as http:
        made = respond(client, "Count this.", model=SIMULATED)
        [run] = http.get("/v1/runs").json()["data"]
        assert (run["result_id"], run["kind"], run["parent_id"]) == (made.id, "response", None)
        [step] = eventually(lambda: http.get("/v1/runs", params={"parent": made.id}).json()["data"])
        assert (step["parent_id"], step["result_id"]) == (run["id"], None)
        [used] = http.get("/v1/usage").json()["data"]
        assert (used["requests"], used["total_tokens"]) == (1, made.usage.total_tokens)


@pytest.mark.requirement("log.response")
def test_the_loop_of_a_response_is_told_as_a_tree(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    made = respond(client, "Tell of this.", model=SIMULATED)
    told = jan("log", made.id, "--data", str(server.data))
    assert told.returncode == 0, told.stderr
    [step] = [line for line in told.stdout.splitlines() if line.startswith("└─")]
    for words in ("step", "1 · simulated/jan-simulated", "tokens", "first after", "in all"):
        assert words in step
    facts = [
        json.loads(line)
        for line in jan("log", made.id, "--json", "--data", str(server.data)).stdout.splitlines()
    ]
    [fact] = [one for one in facts if one["what"] == "step"]
    assert fact["deployment"] == "simulated/jan-simulated"
    assert fact["usage"]["total_tokens"] == made.usage.total_tokens
    assert facts[0]["what"] == "accepted"
    alone = jan("log", fact["id"], "--data", str(server.data)).stdout
    assert f"a step of {fact['run_id']}" in alone
    listed = jan("log", "--parent", made.id, "--data", str(server.data)).stdout
    assert fact["id"] in listed
    assert fact["id"] not in jan("log", "--limit", "100", "--data", str(server.data)).stdout


@pytest.mark.requirement("responses.delete")
def test_no_stream_tells_again_what_was_deleted_or_not_to_be_kept(
    http: httpx.Client, client: openai.OpenAI
) -> None:
    deleted = respond(client, "Forget this soon.", model=SIMULATED).id
    client.responses.delete(deleted)
    unstored = respond(client, "Forget this.", store=False, model=SIMULATED).id
    for response_id in (deleted, unstored):
        answer = http.get(f"/v1/responses/{response_id}", params={"stream": "true"})
        assert answer.status_code == 404


@pytest.mark.requirement("responses.retrieve")
def test_a_response_in_the_background_is_known_at_once(client: openai.OpenAI) -> None:
    for number in range(20):
        made = respond(client, f"Begin {number}.", background=True, model=SIMULATED)
        assert client.responses.retrieve(made.id).id == made.id


@pytest.mark.requirement("responses.conversation")
def test_functions_are_called_in_a_conversation(client: openai.OpenAI) -> None:
    more: Any = {
        "model": SIMULATED,
        "conversation": client.conversations.create().id,
        "tools": [{"type": "function", "name": "ask_sea", "parameters": {}, "strict": False}],
    }
    (call,) = respond(client, "Ask ask_sea.", **more).output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "flat"}
    assert "flat" in respond(client, [output], **more).output_text
    (unanswered,) = respond(client, "Ask ask_sea.", **more).output
    assert unanswered.type == "function_call"
    assert respond(client, "Never mind.", **more | {"tools": []}).status == "completed"


@pytest.mark.requirement("responses.large")
def test_what_is_kept_of_too_large_an_output_is_told_everywhere_alike(
    upstream: UpstreamProcess,
) -> None:
    with (
        running_server(
            "--upstream", upstream.base_url, env={"JAN_RESPONSE_BYTES": "65536"}
        ) as server,
        openai_client(server.url, server.create_key("--name", "large")) as client,
    ):
        conversation = client.conversations.create().id
        *before, last = client.responses.create(
            model="test-model",
            input="!tokens 40000\n!pace 0",
            conversation=conversation,
            stream=True,
        )
        told = last.response
        assert (last.type, told.status) == ("response.failed", "failed")
        assert "output[0] is cut short" in told.error.message
        streamed = "".join(event.delta for event in before if hasattr(event, "delta"))
        assert told.output_text
        assert streamed.startswith(told.output_text)
        assert client.responses.retrieve(told.id) == told
        item = client.conversations.items.list(conversation).data[0]
        assert (item.status, item.content[0].text) == ("incomplete", told.output_text)
