"""Replays of chats that refer to prompts and conversations, on a whole server."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import openai
import pytest

from cli.launch import LaunchedServer
from schemas import ids
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.acceptance.test_replay import posted, replay, report
from tests.acceptance.test_turns import items, user
from tests.support.server import http_client
from tests.support.upstream_process import UpstreamProcess

ERASED: Final = "the log no longer holds"
Change = Callable[[httpx.Client, str], httpx.Response]


def streamed(client: openai.OpenAI, text: str, model: str = SIMULATED, **references: Any) -> str:
    """Stream a chat to its end; returns the completion's id."""
    chunks = client.chat.completions.create(
        model=model,
        messages=[user(text)],  # type: ignore[list-item]
        stream=True,
        extra_body=references,
    )
    *_, last = chunks
    return str(last.id)


def new_prompt(http: httpx.Client, name: str, text: str = "Answer {{who}} in one word.") -> str:
    made = http.post("/v1/prompts", json={"name": name, "template": text})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def replayed(server: LaunchedServer, http: httpx.Client, run_id: str) -> None:
    """Both ways give the same transcript again."""
    code, told = report(server, run_id)
    assert (code, told["same"]) == (0, True), told
    answer = posted(http, run_id, "?wait=true")
    assert answer.json().get("same") is True, answer.text


@pytest.mark.requirement("runs.replay.sources")
@pytest.mark.parametrize("store", [True, False])
def test_a_chat_in_a_conversation_is_replayed_as_it_was_then(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI, store: bool
) -> None:
    conversation = client.conversations.create().id
    streamed(client, "Begin.", conversation=conversation)
    run_id = streamed(client, "Go on.", conversation=conversation, store=store)
    streamed(client, "This came later.", conversation=conversation)
    before = items(client, conversation)
    replayed(server, http, run_id)
    assert items(client, conversation) == before


@pytest.mark.requirement("runs.replay.sources")
def test_a_chat_with_a_prompt_is_replayed_with_the_version_of_then(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI
) -> None:
    prompt = new_prompt(http, "of-then")
    reference = {"id": "of-then", "variables": {"who": "Ann"}}
    run_id = streamed(client, "Who?", prompt=reference)
    http.post(f"/v1/prompts/{prompt}", json={"template": "Never mind {{who}}."}).raise_for_status()
    replayed(server, http, run_id)


@pytest.mark.requirement("runs.replay.sources")
def test_another_model_gets_the_very_messages_of_then(
    server: LaunchedServer,
    http: httpx.Client,
    client: openai.OpenAI,
    upstream: UpstreamProcess,
) -> None:
    new_prompt(http, "with-history")
    conversation = client.conversations.create().id
    streamed(client, "Before it all.", conversation=conversation)
    reference = {"id": "with-history", "variables": {"who": "Bob"}}
    asked = "And with both?"
    run_id = streamed(client, asked, conversation=conversation, prompt=reference)
    replayed(server, http, run_id)
    code, told = report(server, run_id, "--model", SCRIPTED)
    assert (code, told["same"]) == (1, False)
    [choice] = told["comparison"]["choices"]
    assert choice["diffs"]["content"].startswith("--- original")
    sent = upstream.call(asked)["body"]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "user"]
    assert sent[0]["content"] == "Answer Bob in one word."


@pytest.mark.requirement("runs.replay.sources")
def test_a_large_history_is_replayed_too(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI
) -> None:
    long = "word " * 50_000
    conversation = client.conversations.create().id
    for _ in range(5):
        said = {"role": "user", "content": long}
        http.post(f"/v1/conversations/{conversation}/messages", json=said).raise_for_status()
    replayed(server, http, streamed(client, "Was it long?", conversation=conversation))


def delete_item(http: httpx.Client, conversation: str) -> httpx.Response:
    path = f"/v1/conversations/{conversation}/items"
    first = http.get(path, params={"order": "asc"}).json()["data"][0]
    return http.delete(f"{path}/{first['id']}")


def delete_conversation(http: httpx.Client, conversation: str) -> httpx.Response:
    return http.delete(f"/v1/conversations/{conversation}")


def move(http: httpx.Client, conversation: str) -> httpx.Response:
    project = http.post("/v1/projects", json={"name": conversation, "instruction": "Be brief."})
    body = {"project_id": project.json()["id"]}
    return http.post(f"/v1/conversations/{conversation}", json=body)


def fork_is_gone(http: httpx.Client, conversation: str) -> httpx.Response:
    return http.delete(f"/v1/conversations/{conversation}/branches/side")


@pytest.mark.requirement("runs.replay.sources")
@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        (delete_item, "source_changed", "an item of the conversation {} that its request"),
        (move, "source_changed", "the conversation {} has another instruction"),
        (fork_is_gone, "source_deleted", "the branch 'side' of the conversation {}"),
    ],
)
def test_what_has_changed_in_a_conversation_is_told(
    server: LaunchedServer,
    http: httpx.Client,
    client: openai.OpenAI,
    change: Change,
    code: str,
    why: str,
) -> None:
    conversation = client.conversations.create().id
    streamed(client, "Begin.", conversation=conversation)
    path = f"/v1/conversations/{conversation}/branches"
    http.post(path, json={"name": "side"}).raise_for_status()
    on_side = {"id": conversation, "branch": "side"}
    run_id = streamed(client, "Go on.", conversation=on_side)
    change(http, conversation).raise_for_status()
    # What was said on a branch that is deleted goes from the log too, a moment later.
    erased = [ERASED] if change is fork_is_gone else []
    refused = posted(http, run_id)
    error = refused.json()["error"]
    assert refused.status_code == 410
    assert (error["code"] == code and why.format(conversation) in error["message"]) or (
        erased and ERASED in error["message"]
    ), error
    done = replay(server, run_id)
    assert done.returncode == 1
    told = done.stderr.decode()
    assert any(reason in told for reason in (why.format(conversation), *erased)), told


@pytest.mark.requirement("runs.replay.sources")
def test_a_prompt_that_was_deleted_is_told(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI
) -> None:
    began = datetime.now(UTC).isoformat()
    prompt = new_prompt(http, "to-be-deleted")
    run_id = streamed(client, "Who?", prompt={"id": prompt, "variables": {"who": "Ann"}})
    http.delete(f"/v1/prompts/{prompt}").raise_for_status()
    new_prompt(http, "to-be-deleted", "Another of the same name for {{who}}.")
    refused = posted(http, run_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "source_deleted")
    assert f"the prompt {prompt} of its request was deleted" in refused.json()["error"]["message"]
    many = replay(server, "--many", "--since", began).stdout.decode()
    [line] = [line for line in many.splitlines() if line.startswith(str(ids.run_id_of(run_id)))]
    assert "not replayed" in line
    assert "was deleted" in line


@pytest.mark.requirement("runs.replay.sources")
def test_of_a_deleted_conversation_no_run_is_replayed(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI
) -> None:
    conversation = client.conversations.create().id
    run_id = streamed(client, "Kept out of it.", conversation=conversation, store=False)
    delete_conversation(http, conversation).raise_for_status()
    refused = posted(http, run_id)
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "source_deleted")
    done = replay(server, run_id)
    assert done.returncode == 1
    assert f"the conversation {conversation}, with which it went on" in done.stderr.decode()


@pytest.mark.requirement("runs.replay.sources")
def test_an_admin_replays_somebody_elses_chat_in_their_conversation(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    conversation = client.conversations.create().id
    streamed(client, "Begin.", conversation=conversation)
    run_id = streamed(client, "Go on.", conversation=conversation)
    with http_client(server.url, server.create_key("--name", "stranger")) as stranger:
        assert stranger.post(f"/v1/runs/{run_id}/replay").status_code == 404
    with http_client(server.url, server.create_key("--scope", "admin")) as operator:
        told = posted(operator, run_id, "?wait=true")
    assert told.json().get("same") is True, told.text
