"""Errors raise the SDK's own classes, with what the SDK reads."""

from typing import Any

import openai
import pytest

from cli.launch import LaunchedServer
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.server import openai_client

ASK: list[Any] = [{"role": "user", "content": "Hello."}]


def asking(text: str) -> list[Any]:
    """Messages with this text; lines with `!` tell the scripted upstream how to behave."""
    return [{"role": "user", "content": text}]


@pytest.mark.requirement("errors.unauthorized")
@pytest.mark.parametrize("key", ["sk_live_wrong", "x"])
def test_a_wrong_key_is_refused(server: LaunchedServer, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        openai_client(server.url, key).models.list()
    assert caught.value.code == "invalid_api_key"


@pytest.mark.requirement("errors.invalid")
def test_a_wrong_value_names_its_field(client: openai.OpenAI) -> None:
    messages: Any = [*ASK, *ASK, {"role": "user", "content": 5}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=SIMULATED, messages=messages)
    assert caught.value.param == "messages[2].content"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.requirement("errors.model")
@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="no-such-model", messages=ASK, stream=stream)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


@pytest.mark.requirement("errors.upstream")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [500, 503])
def test_an_upstreams_failure_is_an_error_of_the_server(
    client: openai.OpenAI, status: int, stream: bool
) -> None:
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(
            model=SCRIPTED, messages=asking(f"!fail {status}"), stream=stream
        )


@pytest.mark.requirement("errors.rate_limit")
def test_an_upstreams_limit_is_passed_on(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=SCRIPTED, messages=asking("!fail 429"))


@pytest.mark.requirement("errors.upstream.rejected")
@pytest.mark.parametrize("stream", [False, True])
def test_what_an_upstream_refuses_is_refused(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=SCRIPTED, messages=asking("!fail 400"), stream=stream)
    assert "it broke" in caught.value.message


@pytest.mark.requirement("errors.stream")
def test_an_error_in_the_middle_is_raised_inside_the_stream(client: openai.OpenAI) -> None:
    seen: list[str] = []
    stream = client.chat.completions.create(
        model=SCRIPTED, messages=asking("!fail 500 5\n!tokens 50"), stream=True
    )
    with stream, pytest.raises(openai.APIError):  # noqa: PT012 - the tokens before it count too
        for chunk in stream:
            seen += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(seen)


@pytest.mark.requirement("errors.stream")
def test_a_stream_that_is_cut_off_never_ends_silently(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=SCRIPTED, messages=asking("!die 5\n!tokens 50"), stream=True
    )
    with stream, pytest.raises(openai.APIError):
        list(stream)
