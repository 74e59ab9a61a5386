"""What every request passes through, called as ASGI calls it."""

from typing import Any, cast

import msgspec
import pytest
from starlette.requests import ClientDisconnect
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.auth import Principal
from edge.errors import Headers, unknown_route
from edge.limits import Limits
from edge.metrics import Metrics
from edge.middleware import Authentication, Envelope, Errors, Hygiene, Limiting
from schemas.errors import QueueFull, RateLimited, Unauthorized

MAX_BODY = 1000
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Bus:
    connected = True


class Gate:
    """Knows one principal, by any credential."""

    def __init__(self) -> None:
        self.principal = Principal(id="user_1", username="u", method="api_key")

    def authenticate(self, headers: dict[bytes, bytes]) -> Principal:
        if b"x-api-key" not in headers:
            raise Unauthorized("no credential", code="missing_credentials")
        return self.principal


class Answer:
    """What a client gets."""

    def __init__(self, messages: list[Message]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        return cast(dict[str, Any], msgspec.json.decode(self.body)["error"])


class Served:
    """An endpoint behind the whole pipeline."""

    def __init__(self, endpoint: ASGIApp, *methods: str) -> None:
        self.seen: Scope = {}
        self.gate = Gate()
        self.bus = Bus()
        self.metrics = Metrics(())
        self.limits = Limits(lambda: 1)
        self._endpoint = endpoint

        async def note(scope: Scope, receive: Receive, send: Send) -> None:
            self.seen = scope
            await endpoint(scope, receive, send)

        class Note:
            """An endpoint that is an ASGI application: no function."""

            __call__ = staticmethod(note)

        async def nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
            raise unknown_route(scope)

        routes = [
            Route("/v1/thing", Note(), methods=list(methods) or ["POST"]),
            Route("/v1/thing", Note(), methods=["DELETE"]),
            Route("/v1/thing/cancel", Note(), methods=["POST"]),
            Route("/v1/models", Note(), methods=["GET"]),
            Route("/open", Note(), methods=["GET"]),
        ]
        app: ASGIApp = Router(routes, default=nothing, redirect_slashes=False)
        app = Authentication(Limiting(app))
        self._app = Envelope(Errors(Hygiene(app, MAX_BODY), routes))

    async def __call__(
        self,
        path: str = "/v1/thing",
        method: str = "POST",
        body: tuple[bytes, ...] = (b"",),
        **headers: str | None,
    ) -> Answer:
        given = {"x-api-key": "sk"} | {k.replace("_", "-"): v for k, v in headers.items()}
        parts = list(body)
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [
                (k.encode(), v.encode("latin-1")) for k, v in given.items() if v is not None
            ],
            "state": {
                "authenticator": self.gate,
                "bus": self.bus,
                "limits": self.limits,
                "metrics": self.metrics,
            },
        }
        await self._app(scope, receive, send)
        return Answer(sent)


def scope_of(headers: Headers, path: str = "/", query: bytes = b"") -> Scope:
    told = {"path": path, "query_string": query, "headers": headers}
    return {"type": "http", "method": "GET", "state": {}} | told


async def nothing_comes() -> Message:
    raise AssertionError("nobody asked")


async def ok(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await ok(scope, receive, send)


def failing(error: Exception) -> ASGIApp:
    async def fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return fail


async def test_answers_say_whose_they_are() -> None:
    answer = await Served(ok)(x_request_id="mine", traceparent=TRACE)
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-principal-id"] == "user_1"
    assert answer.headers["x-auth-method"] == "api_key"
    assert answer.headers["traceparent"] == TRACE
    assert answer.headers["openai-processing-ms"].isdigit()


@pytest.mark.parametrize("given", ["", "x" * 129, "a\tb", "\xe9", "a\r\nb"])
async def test_a_request_id_that_is_not_fit_is_replaced(given: str) -> None:
    answer = await Served(ok)(x_request_id=given)
    assert answer.headers["x-request-id"].startswith("req_")


async def test_identity_headers_of_clients_are_dropped() -> None:
    served = Served(ok)
    names = ["x-user-id", "x-user-subject", "x-principal-id", "x-auth-method", "x-scopes"]
    names += ["x-consumer-id", "x-credential-identifier", "x-gateway-auth"]
    await served(**{name.replace("-", "_"): "admin" for name in names})
    kept = {name.decode() for name, _ in served.seen["headers"]}
    assert kept == {"x-api-key"}


@pytest.mark.parametrize("prefix", ["/llm", "/responses", "/media"])
async def test_gateway_prefixes_are_aliases(prefix: str) -> None:
    assert (await Served(ok)(f"{prefix}/v1/thing")).status == 200
    assert (await Served(ok)(f"{prefix}x/v1/thing")).status == 404
    assert (await Served(ok)(f"{prefix}/else")).status == 404


async def test_nobody_gets_in_unknown() -> None:
    served = Served(ok)
    answer = await served(x_api_key=None)
    assert (answer.status, answer.error["code"]) == (401, "missing_credentials")
    assert answer.headers["www-authenticate"] == 'Bearer realm="jan"'
    assert (await served("/llm/v1/thing", x_api_key=None)).status == 401
    assert (await served("/v1/unknown", x_api_key=None)).status == 401
    assert (await served("/open", "GET", x_api_key=None)).status == 200


async def test_every_error_has_the_one_envelope() -> None:
    answer = await Served(failing(QueueFull("full", retry_after=1.5, param="model")))()
    assert answer.status == 429
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["retry-after-ms"] == "1500"
    assert answer.error == {
        "message": "full",
        "type": "rate_limit_error",
        "param": "model",
        "code": "queue_full",
        "request_id": answer.headers["x-request-id"],
        "retry_after": 1.5,
    }


async def test_what_nobody_foresaw_is_a_500_without_details() -> None:
    answer = await Served(failing(ZeroDivisionError("the secret")))()
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert b"secret" not in answer.body


async def test_an_error_after_the_start_leaves_the_answer_without_its_end() -> None:
    async def break_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    answer = await Served(break_off)()
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("given", ["00-1-2-01", "x" * 5000, "é", TRACE + "\tx"])
async def test_what_is_no_trace_context_is_not_passed_on(given: str) -> None:
    assert "traceparent" not in (await Served(ok)(traceparent=given)).headers


@pytest.mark.parametrize("name", ["x-api-key", "authorization", "host", "idempotency-key"])
async def test_a_header_that_must_come_once_is_refused_twice(name: str) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    twice = [(name.encode(), b"one"), (b"x-other", b"1"), (name.encode(), b"two")]
    await Errors(Hygiene(ok, MAX_BODY), [])(scope_of(twice), nothing_comes, send)
    assert sent[0]["status"] == 400
    assert Answer(sent).error["param"] == name.title()


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/v1/thing/a\0", b"", "path"),
        ("/v1/thing", b"limit=3&after=a%00b", "after"),
        ("/v1/thing", b"metadata%5Ba%00%5D=b", "metadata[a]"),
    ],
)
async def test_nul_in_a_path_or_a_query_is_refused_by_name(
    path: str, query: bytes, param: str
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Errors(Hygiene(ok, MAX_BODY), [])(scope_of([], path, query), nothing_comes, send)
    assert (sent[0]["status"], Answer(sent).error["param"]) == (400, param)


async def test_a_client_that_leaves_in_its_body_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answered: list[Message] = []

    async def send(message: Message) -> None:
        answered.append(message)

    await Errors(failing(ClientDisconnect()), [])(scope_of([]), nothing_comes, send)
    assert not answered
    assert not caplog.records


async def test_unknown_routes_and_wrong_methods_are_told_in_the_envelope() -> None:
    served = Served(ok)
    answer = await served("/v1/nowhere")
    assert (answer.status, answer.error["code"]) == (404, "unknown_route")
    answer = await served(method="PATCH")
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, POST"


async def test_a_body_that_is_too_large_is_refused_by_its_length() -> None:
    served = Served(ok)
    assert (await served(content_length=str(MAX_BODY))).status == 200
    answer = await served(content_length=str(MAX_BODY + 1))
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_a_body_without_a_length_is_counted() -> None:
    served = Served(read_all)
    half = b"x" * (MAX_BODY // 2)
    chunked = {"transfer_encoding": "chunked"}
    assert (await served(body=(half, half), **chunked)).status == 200
    assert (await served(body=(half, half, b"x"), **chunked)).status == 413


async def test_without_the_bus_only_the_catalogue_is_served() -> None:
    served = Served(ok)
    served.bus.connected = False
    answer = await served()
    assert (answer.status, answer.error["code"]) == (503, "bus_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert (await served("/v1/models", "GET")).status == 200


async def test_limits_tell_and_are_given_back_whatever_happens() -> None:
    served = Served(failing(RateLimited("of the upstream")))
    served.gate.principal = Principal("user_1", "u", "jwt", rpm=3, in_flight=1)
    for left in ("2", "1", "0"):
        answer = await served()
        assert answer.headers["x-ratelimit-remaining-requests"] == left
        assert answer.error["message"] == "of the upstream"
    answer = await served()
    assert "3 a minute" in answer.error["message"]
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await served("/v1/thing/cancel")).error["message"] == "of the upstream"


async def test_requests_are_measured_by_route() -> None:
    served = Served(ok)
    await served()
    await served("/v1/a-path-that-nobody-knows")
    text = served.metrics.text().decode()
    assert (
        'jan_edge_request_seconds_count{method="POST",route="/v1/thing",status="2xx"} 1.0' in text
    )
    assert 'route="unknown",status="4xx"' in text
    assert "nobody-knows" not in text
