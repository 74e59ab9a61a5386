"""Chats that refer to a prompt, and the settings of a whole server."""

import itertools
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.stored import error_of
from tests.support.upstream_process import UpstreamProcess

CHAT = "/v1/chat/completions"
_numbers = itertools.count(1)


def new_prompt(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Keep a prompt under a name of its own."""
    answer = http.post("/v1/prompts", json={"name": f"prompt-{next(_numbers)}", **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.mark.requirement("prompts.chat")
def test_a_chat_gets_a_prompt_s_messages_before_its_own(
    client: openai.OpenAI, http: httpx.Client, upstream: UpstreamProcess
) -> None:
    prompt = new_prompt(
        http,
        messages=[
            {"role": "system", "content": "Speak {{tone}} of {{topic}}, {{tone}}."},
            {"role": "user", "content": [{"type": "text", "text": "I like the {{topic}}."}]},
        ],
        variables={"tone": {"default": "kindly"}},
    )
    answer = client.chat.completions.create(
        model=SCRIPTED,
        messages=[{"role": "user", "content": "prompted: say it"}],
        temperature=0.5,
        extra_body={"prompt": {"id": prompt["id"], "variables": {"topic": "sea"}}},
    )
    assert answer.choices[0].message.content
    body = upstream.call("prompted: say it")["body"]
    assert body["messages"] == [
        {"role": "system", "content": "Speak kindly of sea, kindly."},
        {"role": "user", "content": [{"type": "text", "text": "I like the sea."}]},
        {"role": "user", "content": "prompted: say it"},
    ]
    assert body["temperature"] == 0.5
    assert "prompt" not in body


@pytest.mark.requirement("prompts.chat")
def test_a_prompt_may_bring_the_model_and_all_messages(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    prompt = new_prompt(http, template="prompted alone: version {{n}}", model=SCRIPTED)
    path = f"/v1/prompts/{prompt['name']}"
    later = http.post(path, json={"template": "prompted alone: later {{n}}"})
    assert later.json()["version"] == 2

    def ask(**reference: Any) -> httpx.Response:
        told = {"id": prompt["name"], "variables": {"n": "1"}, **reference}
        return http.post(CHAT, json={"prompt": told, "messages": [], "n": 1})

    assert ask().json()["model"] == SCRIPTED
    assert upstream.call("prompted alone: later 1")["body"]["messages"] == [
        {"role": "system", "content": "prompted alone: later 1"}
    ]
    for version in (1, "1"):
        assert ask(version=version).status_code == 200
    assert len(upstream.calls("prompted alone: version 1")) == 2
    other = {"prompt": {"id": prompt["id"], "variables": {"n": "2"}}, "model": SIMULATED}
    assert http.post(CHAT, json=other).json()["model"] == SIMULATED


@pytest.mark.requirement("prompts.chat")
def test_a_prompted_chat_streams_and_is_one_run_under_one_key(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    prompt = new_prompt(http, template="prompted under a key {{x}}", model=SCRIPTED)
    body = {"prompt": {"id": prompt["id"], "variables": {"x": "once"}}, "stream": True}
    headers = {"Idempotency-Key": f"prompted-{prompt['id']}"}
    first = http.post(CHAT, json=body, headers=headers)
    http.post(f"/v1/prompts/{prompt['id']}", json={"template": "other {{x}}"})
    second = http.post(CHAT, json=body, headers=headers)
    assert first.text.rstrip().endswith("data: [DONE]")
    assert first.headers["x-run-id"] == second.headers["x-run-id"]
    assert len(upstream.calls("prompted under a key once")) == 1


@pytest.mark.requirement("prompts.variables")
def test_values_are_put_in_once_and_as_they_are(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    prompt = new_prompt(http, template="prompted raw: {{a}}|{{ b }}|{{a}}|{{", model=SCRIPTED)
    values = {
        "a": '{{b}} \\1 \\g<b> "quoted"\n',
        "b": {"type": "input_text", "text": "{{a}}"},
    }
    answer = http.post(CHAT, json={"prompt": {"id": prompt["id"], "variables": values}})
    assert answer.status_code == 200
    expected = 'prompted raw: {{b}} \\1 \\g<b> "quoted"\n|{{a}}|{{b}} \\1 \\g<b> "quoted"\n|{{'
    assert upstream.call("prompted raw")["body"]["messages"][0]["content"] == expected


@pytest.mark.requirement("prompts.variables")
def test_what_is_wrong_with_a_prompt_is_named_as_the_client_wrote_it(http: httpx.Client) -> None:
    prompt = new_prompt(http, template="{{a}} {{b}}", variables={"b": {"default": ""}})
    one = prompt["id"]

    def ask(reference: Any, **fields: Any) -> tuple[int, str | None]:
        return error_of(http.post(CHAT, json={"model": SIMULATED, "prompt": reference, **fields}))

    assert ask({"id": one}) == (400, "prompt.variables.a")
    assert ask({"id": one, "variables": {"a": "1", "c": "2"}}) == (400, "prompt.variables.c")
    assert ask({"id": one, "variables": {"a": 1}}) == (400, "prompt.variables.a")
    assert ask({"id": one, "version": 2, "variables": {"a": "1"}}) == (404, "prompt.version")
    assert ask({"id": one, "version": "x"}) == (400, "prompt.version")
    assert ask({"id": "no-such-prompt"}) == (404, "prompt.id")
    assert ask("no-reference") == (400, "prompt")
    good = {"id": one, "variables": {"a": "1"}}
    assert ask(good, messages=[{"role": "user"}]) == (400, "messages[0].content")
    assert ask(good, temperature=3) == (400, "temperature")
    assert error_of(http.post(CHAT, json={"prompt": good})) == (400, "model")
    large = {"id": one, "variables": {"a": "x" * (2 << 20)}}
    assert ask(large) == (400, "prompt.variables")


@pytest.mark.requirement("prompts.variables")
def test_a_small_request_can_not_become_a_huge_one(http: httpx.Client) -> None:
    prompt = new_prompt(http, template="{{a}}" * 50_000, model=SIMULATED)
    body = {"prompt": {"id": prompt["id"], "variables": {"a": "x" * 500_000}}}
    assert error_of(http.post(CHAT, json=body)) == (400, "prompt.variables")


@pytest.mark.requirement("settings.defaults")
def test_the_first_model_is_selected_and_what_models_can_do_is_told(http: httpx.Client) -> None:
    settings = http.get("/v1/users/me/settings").json()
    assert settings["preferences"]["selected_model"] == SIMULATED
    capabilities = settings["server_capabilities"]
    assert capabilities["tools_enabled"]
    assert capabilities["vision_enabled"]
    assert not capabilities["image_generation_enabled"]


@pytest.mark.requirement("prompts.chat")
def test_a_prompt_goes_before_a_conversation_s_history_and_is_not_kept_in_it(
    http: httpx.Client, upstream: UpstreamProcess
) -> None:
    prompt = new_prompt(http, template="prompted history {{x}}", model=SCRIPTED)
    said = {"type": "message", "role": "user", "content": "said before"}
    talk = http.post("/v1/conversations", json={"items": [said]}).json()["id"]
    body: dict[str, Any] = {
        "prompt": {"id": prompt["id"], "variables": {"x": "1"}},
        "conversation": talk,
    }
    first = http.post(CHAT, json=body)
    assert first.status_code == 200, first.text
    [call] = upstream.calls("said before")
    assert [message["content"] for message in call["body"]["messages"]] == [
        "prompted history 1", "said before",
    ]  # fmt: skip

    asked = {**body, "messages": [{"role": "user", "content": "said in the second turn"}]}
    assert http.post(CHAT, json=asked).status_code == 200
    items = http.get(f"/v1/conversations/{talk}/items", params={"order": "asc"}).json()["data"]
    roles = [item["role"] for item in items]
    assert roles == ["user", "assistant", "user", "assistant"]
    assert items[2]["content"][0]["text"] == "said in the second turn"

    path = f"/v1/conversations/{talk}/runs"
    refused = http.post(path, json={"model": SCRIPTED, "prompt": body["prompt"], "content": "x"})
    assert error_of(refused) == (400, "prompt")
