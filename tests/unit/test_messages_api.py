"""Messages at the edge: requests as chats, and chats' answers as messages."""

from typing import Any

import msgspec
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge.messages.answer import to_message
from edge.messages.errors import to_wire
from edge.messages.request import to_chat
from edge.messages.stream import START, MessageStream, Position
from edge.routes.messages import to_count, to_order
from schemas import frames
from schemas.api import chat, messages
from schemas.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    JanError,
    NotFound,
    QueueFull,
    Unauthorized,
    Unavailable,
    UpstreamError,
    UpstreamRejected,
)
from schemas.history import put_together

RUN = "run_01hzzzzzzzzzzzzzzzzzzzzzzz"
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def translated(**fields: Any) -> dict[str, Any]:
    """The chat for a Messages request; it must be one that our own chat route takes."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], **fields}
    encoded = to_chat(messages.decode_request(msgspec.json.encode(body)))
    chat.decode_request(encoded)
    return dict(msgspec.json.decode(encoded))


def chunk(delta: dict[str, Any] | None, **choice: Any) -> bytes:
    """A chunk of the chat stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": None, **choice}]
    return msgspec.json.encode({**HEAD, "choices": choices})


def stream_of(deltas: list[dict[str, Any]], reason: str = "stop", **choice: Any) -> list[bytes]:
    """A whole stream's chunks."""
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk(delta) for delta in deltas),
        chunk({}, finish_reason=reason, **choice),
        msgspec.json.encode({**HEAD, "choices": [], "usage": USAGE}),
        b"[DONE]",
    ]


def feed(
    chunks: list[bytes], cuts: set[int] | None = None, after: Position = START
) -> list[tuple[str, Any]]:
    """The events, with their ids; the stream comes in pieces that end before `cuts`."""
    stream, found, waiting = MessageStream(RUN, after), b"", b""
    for index, one in enumerate(chunks):
        waiting += frames.sse(index, one)
        if cuts is None or index + 1 in cuts:
            found += stream.feed(waiting)
            waiting = b""
    found += stream.feed(waiting)
    events = []
    for block in found.decode().split("\n\n")[:-1]:
        name, number, data = (line.split(": ", 1)[1] for line in block.split("\n"))
        event = msgspec.json.decode(data)
        assert event["type"] == name
        events.append((number, event))
    return events


def accumulated(events: list[tuple[str, Any]]) -> dict[str, Any]:
    """The message that the SDK makes of events."""
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for _, event in events:
        if event["type"] in ("ping", "message_stop"):
            continue
        snapshot = accumulate_event(
            event=EVENTS.validate_python(event), current_snapshot=snapshot, json_bufs=buffers
        )
    return dict(Message.model_validate(snapshot.to_dict()).to_dict())


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """A message's blocks without what is null."""
    return [
        {name: value for name, value in block.items() if value is not None}
        for block in message["content"]
    ]


TEXTS = st.text(min_size=1, max_size=8)
THOUGHTS = st.lists(
    st.tuples(st.lists(TEXTS, max_size=3), TEXTS).map(lambda pair: ("thinking", *pair)), max_size=2
)
CALLS = st.lists(
    st.tuples(st.dictionaries(TEXTS, st.integers(0, 9) | TEXTS, max_size=2), st.integers(1, 4)),
    max_size=3,
)


@st.composite
def answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Deltas of an answer with thoughts, text and calls."""
    deltas: list[dict[str, Any]] = []
    for index, (_, pieces, signature) in enumerate(draw(THOUGHTS)):
        deltas += [{"reasoning_content": piece} for piece in pieces]
        detail = {"type": "thinking", "index": index, "thinking": "".join(pieces)}
        deltas.append({"reasoning_details": [{**detail, "signature": signature}]})
    deltas += [{"content": piece} for piece in draw(st.lists(TEXTS, max_size=4))]
    for number, (given_, parts) in enumerate(draw(CALLS)):
        function = {"name": f"f{number}", "arguments": ""}
        call = {"index": number, "id": f"call_{number}", "type": "function", "function": function}
        deltas.append({"tool_calls": [call]})
        text = msgspec.json.encode(given_).decode()
        size = -(-len(text) // parts)
        for at in range(0, len(text), size):
            piece = {"index": number, "function": {"arguments": text[at : at + size]}}
            deltas.append({"tool_calls": [piece]})
    return deltas


@given(answers(), st.sets(st.integers(0, 30)))
def test_a_stream_adds_up_to_the_whole_message_wherever_it_is_cut(
    deltas: list[dict[str, Any]], cuts: set[int]
) -> None:
    chunks = stream_of(deltas)
    events = feed(chunks, cuts)
    assert events == feed(chunks)
    streamed = accumulated(events)
    body = put_together(chunks[:-1], msgspec.json.encode(USAGE))
    assert body is not None
    whole = msgspec.json.decode(to_message(body, RUN))
    assert blocks_of(streamed) == whole["content"]
    for name in ("id", "model", "role", "stop_reason", "stop_sequence"):
        assert streamed[name] == whole[name]
    assert streamed["usage"]["input_tokens"] == whole["usage"]["input_tokens"] == 13


@given(answers(), st.data())
def test_whoever_reads_on_from_an_event_gets_just_the_rest(
    deltas: list[dict[str, Any]], data: st.DataObject
) -> None:
    chunks = stream_of(deltas)
    whole = feed(chunks)
    assert len({number for number, _ in whole}) == len(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    frame, _, event = whole[at][0].partition(".")
    after = Position(int(frame), int(event)) if event else Position(int(frame) + 1)
    assert feed(chunks, after=after) == whole[at + 1 :]


@given(answers())
def test_a_stored_answer_that_is_streamed_again_says_the_same(deltas: list[dict[str, Any]]) -> None:
    # The edge puts a whole stored result into one delta.
    chunks = stream_of(deltas)
    body = msgspec.json.decode(put_together(chunks[:-1], None) or b"")
    delta = body["choices"][0]["message"]
    for number, call in enumerate(delta.get("tool_calls", ())):
        call["index"] = number
    again = accumulated(feed([chunk(delta, finish_reason="stop"), b"[DONE]"]))
    first = accumulated(feed(chunks))
    told = [block for block in blocks_of(again) if block["type"] != "thinking" or block["thinking"]]
    assert told == [
        block for block in blocks_of(first) if block["type"] != "thinking" or block["thinking"]
    ]


def test_calls_that_come_mixed_are_told_one_after_the_other() -> None:
    def piece(index: int, text: str, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, "function": {"arguments": text}, **more}]}

    begun = [
        {"tool_calls": [{"index": n, "id": f"c{n}", "function": {"name": f"f{n}"}}]} for n in (0, 1)
    ]
    mixed = [piece(0, '{"a"'), piece(1, '{"b":'), piece(0, ":1}"), piece(1, "2}")]
    message = accumulated(feed(stream_of([*begun, *mixed], "tool_calls")))
    found = [(block["id"], block["input"]) for block in message["content"]]
    assert found == [("c0", {"a": 1}), ("c1", {"b": 2})]
    assert message["stop_reason"] == "tool_use"


def test_thoughts_without_a_signature_are_told_too() -> None:
    deltas = [{"reasoning_content": "Hm."}, {"reasoning": " Well."}, {"content": "So."}]
    first, second = blocks_of(accumulated(feed(stream_of(deltas))))
    assert first == {"type": "thinking", "thinking": "Hm. Well.", "signature": ""}
    assert second == {"type": "text", "text": "So."}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"finish_reason": "stop"}, ("end_turn", None)),
        ({"finish_reason": "length"}, ("max_tokens", None)),
        ({"finish_reason": "tool_calls"}, ("tool_use", None)),
        ({"finish_reason": "content_filter"}, ("refusal", None)),
        ({"finish_reason": "something"}, ("end_turn", None)),
        ({"finish_reason": "stop", "stop_reason": "END"}, ("stop_sequence", "END")),
        ({"finish_reason": "stop", "stop_reason": 128009}, ("end_turn", None)),
        ({"finish_reason": "stop", "native_finish_reason": "pause_turn"}, ("pause_turn", None)),
        ({"finish_reason": "stop", "native_finish_reason": "STOP"}, ("end_turn", None)),
    ],
)
def test_why_the_model_stopped_is_told(choice: dict[str, Any], expected: Any) -> None:
    reason = choice.pop("finish_reason")
    message = accumulated(feed(stream_of([{"content": "x"}], reason, **choice)))
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_usage_tells_what_a_cache_held() -> None:
    usage = accumulated(feed(stream_of([{"content": "x"}])))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (13, 7)
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (5, 2)
    assert usage["output_tokens_details"] == {"thinking_tokens": 3}


def test_an_error_frame_is_an_error_event() -> None:
    envelope = UpstreamError("it broke").to_wire("req_1")
    *_, (number, event) = feed([chunk({"content": "x"}), envelope])
    assert number == "1"
    assert event["type"] == "error"
    assert event["error"]["message"] == "it broke"
    assert (event["error"]["type"], event["request_id"]) == ("api_error", "req_1")


def test_what_is_no_chunk_is_a_fault() -> None:
    with pytest.raises(UpstreamError):
        feed([chunk({"content": [{"type": "text"}]})])


def test_what_is_no_completion_is_a_fault() -> None:
    with pytest.raises(UpstreamError):
        to_message(b'{"choices":[{"message":{"content":[{"type":"text"}]}}]}', RUN)


def test_arguments_that_are_no_object_are_kept_as_a_text() -> None:
    function = {"name": "f", "arguments": '{"a'}
    said = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}
    body = {**HEAD, "choices": [{"index": 0, "message": said, "finish_reason": "length"}]}
    message = msgspec.json.decode(to_message(msgspec.json.encode(body), RUN))
    assert message["content"][0]["input"] == {"arguments": '{"a'}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("x", param="y"), 400, "invalid_request_error"),
        (InvalidRequest("x", status=405), 405, "invalid_request_error"),
        (Unauthorized("x"), 401, "authentication_error"),
        (Forbidden("x"), 403, "permission_error"),
        (NotFound("x"), 404, "not_found_error"),
        (UpstreamRejected("x", status=413), 413, "request_too_large"),
        (UpstreamRejected("x", status=422), 422, "invalid_request_error"),
        (QueueFull("x"), 429, "rate_limit_error"),
        (Cancelled("x"), 499, "api_error"),
        (JanError("x"), 500, "api_error"),
        (UpstreamError("x"), 502, "api_error"),
        (Unavailable("x"), 503, "overloaded_error"),
        (DeadlineExceeded("x"), 504, "timeout_error"),
    ],
)
def test_errors_have_anthropics_types(error: JanError, status: int, kind: str) -> None:
    told = msgspec.json.decode(to_wire(error, "req_1"))
    assert error.http_status == status
    assert (told["type"], told["error"]["type"], told["request_id"]) == ("error", kind, "req_1")
    assert told["error"]["message"] == ("y: x" if error.param else "x")


def test_a_request_is_a_chat_that_our_own_route_takes() -> None:
    found = translated(
        system="Be brief.",
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        stop_sequences=["END"],
        metadata={"user_id": "u"},
        stream=True,
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {}}},
    )
    assert found["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (found["max_tokens"], found["temperature"], found["top_p"], found["top_k"]) == (
        5, 0.5, 0.9, 4,
    )  # fmt: skip
    assert (found["stop"], found["user"], found["stream"]) == (["END"], "u", True)
    assert found["stream_options"] == {"include_usage": True}
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert found["tools"] == [{"type": "function", "function": function}]
    assert (found["tool_choice"], found["parallel_tool_calls"]) == ("required", False)
    assert found["reasoning_effort"] == "low"
    assert found["response_format"]["json_schema"]["schema"] == {}


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 5000}, "medium"),
        ({"type": "enabled", "budget_tokens": 32000}, "high"),
        ({"type": "adaptive"}, None),
        ({"type": "between_tools"}, None),
        ({"type": "disabled"}, None),
    ],
)
def test_thinking_is_an_effort_for_those_who_know_no_budget(
    thinking: dict[str, Any], effort: str | None
) -> None:
    found = translated(thinking=thinking)
    assert found.get("reasoning_effort") == effort
    assert found["anthropic"]["thinking"] == thinking


def test_what_tools_answered_comes_before_what_the_user_says() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": [image]},
        {"type": "tool_result", "tool_use_id": "b", "content": "2", "is_error": True},
        {"type": "tool_result", "tool_use_id": "c"},
    ]
    turn = {"role": "user", "content": [*results, {"type": "text", "text": "And?"}]}
    first, second, third, said = translated(messages=[turn])["messages"]
    assert (first["role"], first["tool_call_id"], first["content"]) == ("tool", "a", [])
    assert (second["content"], second["is_error"]) == ("2", True)
    assert third["content"] == ""
    assert [part["type"] for part in said["content"]] == ["image_url", "text"]
    assert said["content"][0]["tool_call_id"] == "a"


def test_a_pdf_is_a_file_and_a_text_is_text() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}
    text = {"type": "text", "media_type": "text/plain", "data": "The sea."}
    content = [
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": text, "title": "Notes"},
    ]
    one, other = translated(messages=[{"role": "user", "content": content}])["messages"][0][
        "content"
    ]
    assert one["file"] == {
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64,JVBERg==",
    }
    assert other["text"] == "Notes\n\nThe sea."


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        translated(**change)
    assert caught.value.param == param


def test_orders_say_what_is_wanted() -> None:
    body = b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
    order = to_order(body, True)
    assert (order.kind, order.model, order.stream, order.include_usage) == ("chat", "m", True, True)
    assert not to_order(body, False).stream
    counted = to_count(body, True)
    assert (counted.kind, counted.stream) == ("count", False)
