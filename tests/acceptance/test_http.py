"""What every answer has, whatever the route."""

import httpx
import openai
import pytest

from tests.acceptance.conftest import SIMULATED

ASK = {"model": SIMULATED, "messages": [{"role": "user", "content": "Hello."}]}


@pytest.mark.requirement("http.headers")
@pytest.mark.parametrize("stream", [False, True])
def test_answers_say_who_and_which(http: httpx.Client, stream: bool) -> None:
    response = http.post("/v1/chat/completions", json={**ASK, "stream": stream})
    headers = response.headers
    assert headers["x-request-id"]
    assert headers["x-run-id"].startswith("run_")
    assert headers["x-principal-id"]
    assert headers["x-auth-method"] == "api_key"
    assert int(headers["openai-processing-ms"]) >= 0


@pytest.mark.requirement("http.request_id")
def test_the_sdk_shows_the_request_id(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK)  # type: ignore[call-overload]
    assert answer._request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.request_id
    assert caught.value.request_id == caught.value.body["request_id"]  # type: ignore[index]


@pytest.mark.requirement("http.request_id")
def test_a_clients_own_request_id_is_kept(http: httpx.Client) -> None:
    response = http.get("/v1/models", headers={"X-Request-Id": "mine-1234"})
    assert response.headers["x-request-id"] == "mine-1234"


@pytest.mark.requirement("http.method", "errors.envelope")
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/v1/chat/completions", "POST"), ("DELETE", "/v1/models", "GET")],
)
def test_a_wrong_method_names_the_right_ones(
    http: httpx.Client, method: str, path: str, allowed: str
) -> None:
    response = http.request(method, path)
    assert response.status_code == 405
    assert allowed in response.headers["allow"]
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.requirement("http.prefix")
def test_the_gateways_prefix_is_an_alias(http: httpx.Client) -> None:
    assert http.get("/llm/v1/models").json() == http.get("/v1/models").json()
    assert http.post("/llm/v1/chat/completions", json=ASK).status_code == 200
