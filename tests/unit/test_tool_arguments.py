"""A tool's arguments: the schema that models get, and results that fit into a message."""

from typing import Annotated, Any

import msgspec
import pytest

from schemas.tools import Citation, decode_tool_result
from workers.tools.arguments import to_arguments, to_schema
from workers.tools.builtin import TOOLS
from workers.tools.outcome import Answer, Failed, to_body, to_failure, to_result


class Inner(msgspec.Struct):
    """A part."""

    n: int = 1


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments with parts."""

    q: Annotated[str, msgspec.Meta(min_length=1, description="What.")]
    title: str = ""  # a name that is a keyword of schemas too
    part: Inner | None = None
    parts: list[Inner] = []


def schema_of(kind: Any) -> Any:
    return msgspec.json.decode(to_schema(kind))


def test_a_schema_is_in_one_piece() -> None:
    schema = schema_of(Outer)
    assert "$ref" not in str(schema)
    assert "$defs" not in schema
    assert schema["type"] == "object"
    assert schema["required"] == ["q"]
    assert schema["properties"]["title"]["type"] == "string"
    assert schema["properties"]["parts"]["items"]["properties"]["n"]["type"] == "integer"


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_every_built_in_tool_has_such_a_schema(name: str) -> None:
    about = TOOLS[name].about
    assert about.name == name
    assert msgspec.json.decode(about.parameters)["type"] == "object"
    assert b"$ref" not in bytes(about.parameters) + bytes(about.output or b"")


def test_an_alias_stands_for_its_argument() -> None:
    found = to_arguments("t", {"query": "x"}, Outer, {"query": "q"})
    assert found.q == "x"
    with pytest.raises(Failed, match="are the same"):
        to_arguments("t", {"query": "x", "q": "y"}, Outer, {"query": "q"})


@pytest.mark.parametrize("most", [4096, 20_000])
@pytest.mark.parametrize("text", ["x" * 100_000, "\x00" * 50_000, "ü" * 50_000, "😀" * 50_000])
def test_a_result_fits_whatever_is_in_it(text: str, most: int) -> None:
    citations = [Citation(title=text[:200], text=text[:200])] * 60
    result = to_result(Answer(text, structured={"x": text}, citations=citations))
    body = to_body(result, most)
    assert len(body) <= most
    assert "[Cut: the first" in decode_tool_result(body).output


def test_a_small_result_is_as_it_is() -> None:
    result = to_result(Answer("text", structured=[1]))
    assert decode_tool_result(to_body(result)) == result


def test_a_failure_tells_the_model_what_it_tells_programs() -> None:
    result = to_failure(Failed("timeout", "It took too long."))
    assert result.output == "It took too long."
    assert result.error is not None
    assert result.error.code == "timeout"
