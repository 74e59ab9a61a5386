"""Chatting in a conversation, through the real SDK, on a whole server."""

from typing import Any

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED, SLASHED
from tests.support.server import http_client, openai_client
from tests.support.upstream_process import UpstreamProcess

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat(client: openai.OpenAI, conversation: object, *messages: object, **more: Any) -> Any:
    """A chat in a conversation; streamed ones come back put together."""
    extra = {"conversation": conversation, **more.pop("extra", {})}
    more = {"model": SCRIPTED, "messages": list(messages), "extra_body": extra, **more}
    answer = client.chat.completions.create(**more)
    return list(answer) if more.get("stream") else answer


def items(client: openai.OpenAI, conversation: str) -> list[Any]:
    return list(client.conversations.items.list(conversation, order="asc"))


def texts(client: openai.OpenAI, conversation: str) -> list[tuple[str, str]]:
    return [(item.role, item.content[0].text) for item in items(client, conversation)]


def sent(upstream: UpstreamProcess, text: str) -> list[dict[str, Any]]:
    """The messages that the upstream got in the one call whose last message has this text."""
    messages: list[dict[str, Any]] = upstream.call(text)["body"]["messages"]
    return messages


@pytest.mark.requirement("turns.history")
@pytest.mark.parametrize("stream", [False, True])
def test_the_second_request_sees_the_first(
    client: openai.OpenAI, upstream: UpstreamProcess, stream: bool
) -> None:
    conversation = client.conversations.create().id
    first, second = f"Who is Ann? {stream}", f"And who is Bob? {stream}"
    answer = chat(client, conversation, user(first), stream=stream)
    if stream:
        said = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        said = answer.choices[0].message.content
    chat(client, {"id": conversation}, user(second), stream=stream)

    assert sent(upstream, second) == [
        user(first),
        {"role": "assistant", "content": said},
        user(second),
    ]
    assert "conversation" not in upstream.call(second)["body"]
    kept = items(client, conversation)
    assert [item.role for item in kept] == ["user", "assistant", "user", "assistant"]
    assert {item.status for item in kept} == {"completed"}
    assert texts(client, conversation)[:2] == [("user", first), ("assistant", said)]


@pytest.mark.requirement("turns.history")
def test_the_other_edge_sees_it_too(
    server: LaunchedServer, api_key: str, client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    chat(client, conversation, user("Remember the word heron."))
    with openai_client(server.edges[-1], api_key) as other:
        chat(other, conversation, user("Which word at the other edge?"))
    assert len(sent(upstream, "Which word at the other edge?")) == 3


@pytest.mark.requirement("turns.foreign")
def test_a_missing_or_foreign_conversation_is_a_404_before_anything_runs(
    server: LaunchedServer, client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    missing = conversation[:-4] + ("aaaa" if conversation[-4:] != "aaaa" else "bbbb")
    told = []
    with openai_client(server.url, server.create_key("--name", "stranger")) as stranger:
        for named in (conversation, missing):
            with pytest.raises(openai.NotFoundError) as refused:
                chat(stranger, named, user("never asked by a stranger"))
            told.append(str(refused.value.body["message"]).replace(named, "ID"))  # type: ignore[index]
    assert told[0] == told[1]
    assert upstream.calls("never asked by a stranger") == []


@pytest.mark.requirement("turns.incomplete")
def test_a_cancel_keeps_what_was_generated(client: openai.OpenAI, http: httpx.Client) -> None:
    conversation = client.conversations.create().id
    stream = client.chat.completions.create(
        model=SIMULATED,
        messages=[user("Tell a long story.\n!tokens 500\n!pace 20")],  # type: ignore[list-item]
        stream=True,
        extra_body={"conversation": conversation},
    )
    said = ""
    for chunk in stream:
        said += chunk.choices[0].delta.content or ""
        if len(said) > 20:
            break
    done = http.post(f"/v1/chat/completions/{chunk.id}/cancel").json()
    assert done["status"] == "cancelled"

    asked, answered = items(client, conversation)
    assert (asked.status, answered.status) == ("completed", "incomplete")
    assert answered.content[0].text.startswith(said)


@pytest.mark.requirement("turns.incomplete")
def test_a_failure_keeps_what_was_generated_and_what_was_cut_is_incomplete(
    client: openai.OpenAI,
) -> None:
    conversation = client.conversations.create().id
    with pytest.raises(openai.APIError):
        chat(client, conversation, user("Break.\n!fail 500 5\n!tokens 50"), stream=True)
    chat(client, conversation, user("Be brief."), model=SIMULATED, max_tokens=3)
    with pytest.raises(openai.BadRequestError):
        chat(client, conversation, user("Refuse.\n!fail 400"))

    kept = [(item.role, item.status) for item in items(client, conversation)]
    assert kept == [
        ("user", "completed"),
        ("assistant", "incomplete"),
        ("user", "completed"),
        ("assistant", "incomplete"),
    ], "a request that was refused is not in the way of later ones"


@pytest.mark.requirement("turns.tools")
@pytest.mark.parametrize("stream", [False, True])
def test_calls_and_their_results_are_sent_again(
    client: openai.OpenAI, upstream: UpstreamProcess, stream: bool
) -> None:
    conversation = client.conversations.create().id
    question = f'Look there. {stream}\n!tool look {{"at": "sea"}}'
    chat(client, conversation, user(question), tools=[TOOL], stream=stream)
    call = items(client, conversation)[-1]
    assert (call.type, call.name, call.arguments) == ("function_call", "look", '{"at": "sea"}')
    result = {"role": "tool", "tool_call_id": call.call_id, "content": f"waves {stream}"}
    chat(client, conversation, result, tools=[TOOL], stream=stream)
    chat(client, conversation, user(f"Thank you. {stream}"))

    asked, called, answered, *_ = sent(upstream, f"Thank you. {stream}")
    assert asked == user(question)
    assert called["tool_calls"] == [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": "look", "arguments": '{"at": "sea"}'},
        }
    ]
    assert answered == result
    kept = [item.type for item in items(client, conversation)]
    assert kept[:3] == ["message", "function_call", "function_call_output"]


@pytest.mark.requirement("turns.store")
def test_store_false_reads_and_adds_nothing(
    client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    chat(client, conversation, user("This is kept."))
    chat(client, conversation, user("This is not kept."), store=False)
    assert len(sent(upstream, "This is not kept.")) == 3
    assert len(items(client, conversation)) == 2


@pytest.mark.requirement("turns.instruction")
def test_system_messages_come_first_and_are_not_stored(
    client: openai.OpenAI, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    system = {"role": "system", "content": "Be kind."}
    chat(client, conversation, user("One."))
    chat(client, conversation, system, user("Two, kindly."))
    assert [message["role"] for message in sent(upstream, "Two, kindly.")] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    assert [role for role, _ in texts(client, conversation)] == ["user", "assistant"] * 2


@pytest.mark.requirement("turns.title")
def test_a_title_is_made_until_one_is_given(client: openai.OpenAI, http: httpx.Client) -> None:
    conversation = client.conversations.create().id
    path = f"/v1/conversations/{conversation}"
    first = "See [the *docs*](https://x.example/a) or mail me@example.org about herons"
    chat(client, conversation, user(first))
    assert http.get(path).json()["title"] == "See the docs or mail about herons"

    http.post(path, json={"title": "Mine"}).raise_for_status()
    for number in range(5):
        chat(client, conversation, user(f"Number {number}"))
    assert http.get(path).json()["title"] == "Mine"


@pytest.mark.requirement("turns.messages", "turns.runs")
def test_a_message_is_appended_and_a_model_run_on_it(
    client: openai.OpenAI, http: httpx.Client, upstream: UpstreamProcess
) -> None:
    conversation = client.conversations.create().id
    path = f"/v1/conversations/{conversation}"
    added = http.post(f"{path}/messages", json={"role": "user", "content": "Any news of Eve?"})
    assert added.status_code == 200
    assert (added.json()["role"], added.json()["content"]) == ("user", "Any news of Eve?")

    ran = http.post(f"{path}/runs", json={"model": SCRIPTED})
    assert ran.status_code == 200, ran.text
    assert ran.headers["x-conversation-id"] == conversation
    more = http.post(f"{path}/runs", json={"model": SCRIPTED, "content": "And of Adam?"})
    assert more.json()["object"] == "chat.completion"
    assert [message["role"] for message in sent(upstream, "And of Adam?")] == [
        "user",
        "assistant",
        "user",
    ]
    with http.stream(
        "POST", f"{path}/runs", json={"model": SCRIPTED, "content": "Streamed?", "stream": True}
    ) as streamed:
        assert streamed.read().endswith(b"data: [DONE]\n\n")

    page = http.get(f"{path}/messages", params={"order": "asc", "limit": 4}).json()
    assert page["data"][0] == added.json()
    rest = http.get(f"{path}/messages", params={"order": "asc", "after": page["next_after"]}).json()
    roles = [message["role"] for message in (*page["data"], *rest["data"])]
    assert roles == ["user", "assistant"] * 3
    assert page["data"][1]["content"] == ran.json()["choices"][0]["message"]["content"]

    empty = client.conversations.create().id
    refused = http.post(f"/v1/conversations/{empty}/runs", json={"model": SCRIPTED})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")


@pytest.mark.requirement("turns.regenerate")
@pytest.mark.parametrize("of", ["answer", "question"])
def test_an_answer_is_made_anew_on_a_branch(
    client: openai.OpenAI, http: httpx.Client, upstream: UpstreamProcess, of: str
) -> None:
    conversation = client.conversations.create().id
    chat(client, conversation, user("Before."))
    chat(client, conversation, user(f"Again, please. {of}"))
    before = items(client, conversation)
    item = before[3 if of == "answer" else 2]

    body = {"model": SCRIPTED, "max_tokens": 7, "temperature": 0.5}
    path = f"/v1/conversations/{conversation}/items/{item.id}/regenerate"
    ran = http.post(path, json=body)
    assert ran.status_code == 200, ran.text

    [_, again] = upstream.calls(f"Again, please. {of}")
    assert again["body"]["max_tokens"] == 7
    assert [message["role"] for message in again["body"]["messages"]] == [
        "user",
        "assistant",
        "user",
    ]
    after = items(client, conversation)
    assert [kept.id for kept in after[:3]] == [kept.id for kept in before[:3]]
    assert len(after) == 4
    assert after[3].id != before[3].id
    assert after[3].content[0].text == ran.json()["choices"][0]["message"]["content"]
    main = client.conversations.items.list(
        conversation, order="asc", extra_query={"branch": "MAIN"}
    )
    assert [kept.id for kept in main] == [kept.id for kept in before]


@pytest.mark.requirement("turns.regenerate")
def test_an_answer_that_can_not_be_made_anew_leaves_no_branch(
    client: openai.OpenAI, http: httpx.Client
) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    shown = {"type": "message", "role": "user", "content": [image]}
    seen = {"type": "message", "role": "assistant", "content": "A picture."}
    conversation = client.conversations.create(items=[shown, seen]).id  # type: ignore[list-item]
    [_, answer] = items(client, conversation)
    path = f"/v1/conversations/{conversation}"
    before = http.get(f"{path}/branches").json()

    refused = http.post(f"{path}/items/{answer.id}/regenerate", json={"model": SLASHED})
    assert refused.status_code == 400  # this model sees nothing, which the fork's history tells
    assert [branch["name"] for branch in http.get(f"{path}/branches").json()["data"]] == [
        branch["name"] for branch in before["data"]
    ]
    assert http.get(path).json()["active_branch"] == "MAIN"


@pytest.mark.requirement("stored.completions")
@pytest.mark.parametrize("stream", [False, True])
def test_stored_completions_are_listed_changed_and_deleted(
    server: LaunchedServer, stream: bool
) -> None:
    with openai_client(server.url, server.create_key("--name", f"keeper {stream}")) as client:
        made = []
        for number in range(3):
            answer = client.chat.completions.create(
                model=SIMULATED,
                messages=[user(f"Number {number}")],  # type: ignore[list-item]
                store=True,
                stream=stream,
                metadata={"number": str(number), "kind": "test"},
            )
            made.append([chunk.id for chunk in answer].pop() if stream else answer.id)
        client.chat.completions.create(model=SIMULATED, messages=[user("Not kept.")])  # type: ignore[list-item]

        listed = client.chat.completions.list(limit=2)
        assert [one.id for one in listed] == made
        assert listed.data[0].object == "chat.completion"
        assert listed.data[0].choices[0].message.content
        newest = client.chat.completions.list(order="desc", limit=1).data
        assert [one.id for one in newest] == made[-1:]
        chosen = client.chat.completions.list(metadata={"number": "1", "kind": "test"})
        assert [one.id for one in chosen] == [made[1]]
        assert client.chat.completions.list(model="another").data == []

        one = client.chat.completions.retrieve(made[1])
        assert one == chosen.data[0]
        assert client.chat.completions.update(made[2], metadata=None).metadata == {}  # type: ignore[attr-defined]
        backwards = client.chat.completions.list(limit=1, extra_query={"before": made[2]})
        assert ([one.id for one in backwards.data], backwards.has_more) == ([made[1]], True)
        changed = client.chat.completions.update(made[1], metadata={"kind": "changed"})
        assert changed.metadata == {"kind": "changed"}  # type: ignore[attr-defined]
        assert client.chat.completions.list(metadata={"kind": "changed"}).data[0].id == made[1]

        gone = client.chat.completions.delete(made[1])
        assert (gone.id, gone.object, gone.deleted) == (made[1], "chat.completion.deleted", True)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(made[1])
        assert [one.id for one in client.chat.completions.list()] == [made[0], made[2]]
    with (
        openai_client(server.url, server.create_key("--name", "other")) as other,
        pytest.raises(openai.NotFoundError),
    ):
        other.chat.completions.retrieve(made[0])


@pytest.mark.requirement("stored.messages")
def test_the_messages_of_a_stored_completion_are_listed(client: openai.OpenAI) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    made = client.chat.completions.create(
        model=SIMULATED,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "A picture."},
            {"role": "user", "content": "Of what?"},
        ],  # type: ignore[list-item]
        store=True,
    )
    listed = list(client.chat.completions.messages.list(made.id, limit=2))
    assert [message.content for message in listed] == [
        "Be brief.",
        "What is this?",
        "A picture.",
        "Of what?",
    ]
    assert listed[1].content_parts is not None
    assert listed[1].content_parts[0].type == "text"
    last = client.chat.completions.messages.list(made.id, order="desc", limit=1).data[0]
    assert last == listed[-1]


@pytest.mark.requirement("usage.sum", "usage.admin")
def test_usage_is_counted_once(server: LaunchedServer) -> None:
    key = server.create_key("--name", "spender")
    with openai_client(server.url, key) as client, http_client(server.url, key) as http:
        conversation = client.conversations.create().id
        answers = [chat(client, conversation, user(f"Spend {n}"), model=SIMULATED) for n in "123"]
        used = http.get("/v1/usage", params={"group_by": "day,model"}).json()
        assert used["group_by"] == ["day", "model"]
        [row] = used["data"]
        assert (row["model"], row["requests"], row["failed"]) == (SIMULATED, 3, 0)
        assert row["total_tokens"] == sum(answer.usage.total_tokens for answer in answers)
        assert http.get("/v1/usage", params={"end": "2020-01-01"}).json()["data"] == []

        bad = http.get("/v1/usage", params={"group_by": "weather"})
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "group_by")
        refused = http.get("/v1/usage", params={"group_by": "principal"})
        assert refused.status_code == 403
        mine = client.chat.completions.with_raw_response.create(
            model=SIMULATED,
            messages=[user("Who?")],  # type: ignore[list-item]
        ).headers["x-principal-id"]
    admin = server.create_key("--name", "boss", "--scope", "admin")
    with http_client(server.url, admin) as boss:
        found = boss.get("/v1/usage", params={"principal": mine, "group_by": "principal"}).json()
        assert [row["principal"] for row in found["data"]] == [mine]
        everybody = boss.get("/v1/usage", params={"group_by": "principal"}).json()["data"]
        assert mine in [row["principal"] for row in everybody]
