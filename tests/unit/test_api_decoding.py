"""Bodies of requests: what is taken, and how what is wrong is named."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.api import chat, completions, embeddings
from schemas.api.auth import decode_refresh
from schemas.errors import InvalidRequest

HELLO = {"role": "user", "content": "hello"}


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [HELLO]} | fields).encode()


def refusal(sent: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat.decode_request(sent)
    return caught.value


def test_every_field_of_the_api_is_taken() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    request = chat.decode_request(
        body(
            messages=[
                {"role": "system", "content": "s"},
                {"role": "developer", "content": [{"type": "text", "text": "d"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "t"},
                        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
                        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                        {"type": "file", "file": {"file_id": "file-1"}},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "r", "tool_call_id": "c"},
                {"role": "function", "name": "f", "content": "r"},
            ],
            audio={"format": "wav", "voice": "alloy"},
            frequency_penalty=-2,
            logit_bias={"50256": -100},
            logprobs=True,
            top_logprobs=20,
            max_completion_tokens=1,
            metadata={"k": "v"},
            modalities=["text"],
            n=128,
            parallel_tool_calls=False,
            prediction={"type": "content", "content": "p"},
            presence_penalty=2,
            reasoning_effort="xhigh",
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
            seed=1,
            service_tier="flex",
            stop=["a", "b", "c", "d"],
            store=False,
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            tool_choice={"type": "function", "function": {"name": "f"}},
            tools=[tool, {"type": "custom", "custom": {"name": "c"}}],
            top_p=1,
            user="u",
            verbosity="low",
            web_search_options={},
        )
    )
    assert request.stream_options is not None
    assert request.stream_options.include_usage
    assert len(request.messages) == 6


def test_unknown_fields_pass() -> None:
    assert chat.decode_request(body(top_k=5, repetition_penalty=1.1)).model == "m"


def test_null_is_as_good_as_absent() -> None:
    assert chat.decode_request(body(temperature=None, stop=None, tools=None)).tools is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": 5}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [HELLO] * 4097}, "messages", "invalid_value"),
        ({"messages": [HELLO] * 10_000}, "messages", "invalid_value"),
        ({"messages": "hello"}, "messages", "invalid_type"),
        ({"messages": [HELLO, HELLO, {"role": "user", "content": 7}]}, "messages[2].content", None),
        ({"messages": [{"role": "king", "content": ""}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"content": ""}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content[0].type",
            None,
        ),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].tool_call_id", None),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"n": 0}, "n", None),
        ({"n": 129}, "n", None),
        ({"top_logprobs": 21}, "top_logprobs", None),
        ({"stop": ["a"] * 5}, "stop", None),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", None),
        ({"metadata": {"k" * 65: ""}}, "metadata", None),
        ({"metadata": {"a": "", "k": "v" * 513}}, "metadata.k", None),
        ({"logit_bias": {"1": 1, "2": 101, "3": 102}}, "logit_bias.2", None),
        (
            {"prompt": {"id": "p", "variables": {"a": "b", "who": 7, "x": 8}}},
            "prompt.variables.who",
            "invalid_type",
        ),
        (
            {"prompt": {"id": "p", "variables": {"a": "", "file": {"type": "input_file"}}}},
            "prompt.variables.file.type",
            None,
        ),
        (
            {"prompt": {"id": "p", "variables": {"text": {"type": "input_text", "text": 1}}}},
            "prompt.variables.text.text",
            "invalid_type",
        ),
        ({"prompt": {"id": "p", "variables": {"k" * 80: 1}}}, "prompt.variables." + "k" * 64, None),
        ({"tool_choice": "maybe"}, "tool_choice", None),
        ({"response_format": {"type": "xml"}}, "response_format.type", None),
        ({"stream": "yes"}, "stream", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, object], param: str, code: str | None) -> None:
    error = refusal(body(**fields))
    assert error.param == param
    assert param in error.message
    assert code in (None, error.wire_code)


def test_a_key_is_not_looked_for_at_length() -> None:
    many = {f"k{number}": "v" for number in range(15_000)}
    began = time.process_time()
    error = refusal(body(prompt={"id": "p", "variables": {**many, "last": 1}}))
    assert time.process_time() - began < 1
    assert error.param == "prompt.variables"


def test_what_is_wrong_is_named_whatever_it_says() -> None:
    """The message quotes it, and it may have newlines."""
    error = refusal(body(messages=[{"role": "a\r\n\tb - at `$.x`\n", "content": "c"}]))
    assert (error.param, error.code) == ("messages[0].role", "invalid_value")


def test_a_missing_model_is_named() -> None:
    error = refusal(b'{"messages": [{"role": "user", "content": ""}]}')
    assert (error.param, error.wire_code) == ("model", "missing_required_parameter")


@pytest.mark.parametrize(
    "sent", [b"", b"nul", b"{", b'{"model": "m",}', b'{"a": "\x00"}', body() + b" x"]
)
def test_what_is_no_json_is_said_to_be_none(sent: bytes) -> None:
    error = refusal(sent)
    assert (error.param, error.wire_code) == (None, "invalid_json")


@pytest.mark.parametrize("sent", [b"[]", b"null", b"5", b'"text"'])
def test_what_is_no_object_is_refused(sent: bytes) -> None:
    assert refusal(sent).wire_code == "invalid_type"


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    error = refusal(b'{"model": "m", "deep": ' + opening * 100_000)
    assert "nested too deeply" in error.message


@pytest.mark.parametrize("text", ["\\ud800", "\\udc00\\ud800", "\\ud83dx\\ude00", "a\\u0000b"])
def test_text_that_cannot_be_kept_is_refused_by_name(text: str) -> None:
    error = refusal(b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text.encode())
    assert error.param == "messages[0].content"


def test_text_that_cannot_be_kept_is_found_in_unknown_fields_too() -> None:
    start = b'{"model":"m","messages":[{"role":"user","content":""}],'
    assert refusal(start + b'"x":{"y":["\\ud800"]}}').param == "x.y[0]"
    assert refusal(start + b'"x":{"\\u0000":1}}').param == "x"
    assert refusal(b'{"x": "\xff"}').wire_code == "invalid_json"


def test_escaped_text_that_only_looks_like_it_is_taken() -> None:
    sent = b'{"model":"m","messages":[{"role":"user","content":"\\\\u0000 \\ud83d\\ude00"}]}'
    assert chat.decode_request(sent).messages[0].content == "\\u0000 \N{GRINNING FACE}"


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_decoder_down(sent: bytes) -> None:
    refusal(sent)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_no_json_brings_the_decoder_down(value: object) -> None:
    error = refusal(json.dumps({"model": "m", "messages": value}).encode())
    assert error.http_status == 400


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2]]])
def test_a_prompt_has_four_forms(prompt: object) -> None:
    sent = json.dumps({"model": "m", "prompt": prompt}).encode()
    assert completions.decode_request(sent).prompt == prompt
    sent = json.dumps({"model": "m", "input": prompt}).encode()
    assert embeddings.decode_request(sent).input == prompt


@pytest.mark.parametrize("value", ["", [], [""], {}, None, ["a"] * 2049])
def test_an_input_for_embeddings_is_not_empty(value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embeddings.decode_request(json.dumps({"model": "m", "input": value}).encode())
    assert str(caught.value.param).startswith("input")


@pytest.mark.parametrize("mixed", [["a", 1], [1, [2]], ["a", [1]]])
def test_texts_and_tokens_are_not_mixed(mixed: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="mixes") as caught:
        completions.decode_request(json.dumps({"model": "m", "prompt": mixed}).encode())
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("text", [rb"\\u0000", rb"a\\\\u0000", rb"\\\u0041\\u0000"])
def test_what_only_looks_like_nul_is_let_in(text: bytes) -> None:
    decode_refresh(b'{"refresh_token": "%b"}' % text)


@pytest.mark.parametrize("text", [rb"\u0000", rb"\\\u0000", rb"a\n\u0000", rb"\ud800"])
@pytest.mark.parametrize("filler", [b"0", b"0, " * 2_000_000 + b"0"])
def test_bad_text_is_refused_without_holding_others_up(text: bytes, filler: bytes) -> None:
    """Naming the field takes seconds in a large body: there it is not named."""
    before = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        decode_refresh(b'{"other": [%b], "refresh_token": "%b"}' % (filler, text))
    assert caught.value.param == ("refresh_token" if filler == b"0" else None)
    assert time.process_time() - before < 0.5
