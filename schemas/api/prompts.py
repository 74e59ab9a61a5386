"""Prompts: messages with placeholders, kept under a name, in versions.

`{{name}}` in a message's text is a placeholder. What is put in its place is text, and is not looked
at again. The reference in a request has the form of OpenAI's Responses; the rest is our own.
"""

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.api.chat import Message
from schemas.api.conversations import ProjectId
from schemas.api.decoding import decoder
from schemas.api.fields import ModelId
from schemas.errors import InvalidRequest

MAX_TEMPLATE_BYTES: Final = 256 * 1024  # of the messages of one version
MAX_VARIABLES_BYTES: Final = 1 << 20  # of all values in one request: a question on the bus
MAX_RENDERED_BYTES: Final = 4 << 20  # of the messages with their values: an answer on the bus
MAX_VERSIONS: Final = 1000  # of one prompt: they are deleted at once

# An id has an underscore, so a name can't be mistaken for one.
Name = Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$")]
Version = Annotated[int, Meta(ge=1, le=999_999_999)]
Description = Annotated[str, Meta(max_length=1024)]
VariableName = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Template = Annotated[str, Meta(min_length=1)]

PLACEHOLDER: Final = re.compile(r"\{\{[ \t]*([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*\}\}")

Body = dict[str, Any]  # a message
MapText = Callable[[str], str]


class Variable(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a placeholder stands for. Without a default it must be given."""

    default: Annotated[str, Meta(max_length=65_536)] | None = None
    description: Description | None = None


Variables = Annotated[dict[VariableName, Variable], Meta(max_length=100)]
Messages = Annotated[list[Message], Meta(min_length=1, max_length=100)]


class CreatePrompt(Struct):
    """POST /v1/prompts: `messages`, or `template`, the text of one system message."""

    name: Name
    messages: Messages | None = None
    template: Template | None = None
    variables: Variables | None = None
    model: ModelId | None = None
    project_id: ProjectId | None = None
    description: Description | None = None


class CreatePromptVersion(Struct):
    """POST /v1/prompts/{id}: a new version; what is not named is as in the newest."""

    messages: Messages | None = None
    template: Template | None = None
    variables: Variables | UnsetType = UNSET
    model: ModelId | UnsetType | None = UNSET
    project_id: ProjectId | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET


class Prompt(Struct, kw_only=True):
    """One version of a prompt, as it is served; `version` is the ETag too."""

    id: str
    object: str = "prompt"
    name: str
    version: int
    description: str | None
    project_id: str | None
    model: str | None
    messages: list[msgspec.Raw]
    variables: dict[str, Variable]
    created_at: int


class Rendered(Struct):
    """A prompt with its variables filled in."""

    id: str
    version: int
    model: str | None
    messages: list[msgspec.Raw]


class PromptDeleted(Struct, kw_only=True):
    """A prompt is gone, with all its versions."""

    id: str
    object: str = "prompt.deleted"
    deleted: bool = True


class PromptList(Struct):
    """A page of prompts, or of one's versions."""

    object: str
    data: list[Prompt]
    first_id: str | None
    last_id: str | None
    has_more: bool
    next_after: str | None


class _RawMessages(Struct):
    messages: list[msgspec.Raw] | None = None


decode_create = decoder(CreatePrompt)
decode_version = decoder(CreatePromptVersion)
_decode_raw = msgspec.json.Decoder(_RawMessages).decode
_decode_messages = msgspec.json.Decoder(list[Body]).decode


def read_messages(body: bytes, given: CreatePrompt | CreatePromptVersion) -> bytes | None:
    """A checked body's messages as JSON; None if it names none. Raises InvalidRequest."""
    if given.messages is not None and given.template is not None:
        raise InvalidRequest(
            "'template' is short for 'messages': give one of them", param="template"
        )
    messages: bytes | None = None
    if given.template is not None:
        messages = msgspec.json.encode([{"role": "system", "content": given.template}])
    elif given.messages is not None:
        messages = msgspec.json.encode(_decode_raw(body).messages)
    if messages is not None and len(messages) > MAX_TEMPLATE_BYTES:
        raise InvalidRequest(
            f"a prompt has at most {MAX_TEMPLATE_BYTES} bytes",
            param="messages" if given.template is None else "template",
        )
    return messages


def placeholders(messages: bytes) -> set[str]:
    """The names of all variables that messages have places for."""
    return {name for text in _texts(messages) for name in PLACEHOLDER.findall(text)}


def to_variables(names: set[str], declared: dict[str, Variable]) -> dict[str, Variable]:
    """All variables of a prompt: what is not declared must be given. Raises InvalidRequest."""
    for name in declared:
        if name not in names:
            raise InvalidRequest(
                f"'variables.{name}': no message has a place for it", param=f"variables.{name}"
            )
    return {name: declared.get(name, Variable()) for name in sorted(names)}


def render(messages: bytes, variables: dict[str, Variable], given: dict[str, str]) -> bytes:
    """Fill a prompt's variables in. Raises InvalidRequest naming `prompt.variables.x`."""
    values = _to_values(variables, given)
    sizes = {name: len(msgspec.json.encode(value)) for name, value in values.items()}
    size = len(messages)
    for text in _texts(messages):
        size += sum(sizes[name] for name in PLACEHOLDER.findall(text))
        if size > MAX_RENDERED_BYTES:
            raise InvalidRequest(
                f"with its variables the prompt has more than {MAX_RENDERED_BYTES} bytes",
                param="prompt.variables",
            )
    filled = _decode_messages(messages)
    for message in filled:
        _map_texts(message, lambda text: PLACEHOLDER.sub(lambda found: values[found[1]], text))
    return msgspec.json.encode(filled)


def _to_values(variables: dict[str, Variable], given: dict[str, str]) -> dict[str, str]:
    for name in given:
        if name not in variables:
            raise _wrong_variable(name, "the prompt has no such variable", "invalid_value")
    values: dict[str, str] = {}
    for name, variable in variables.items():
        value = given.get(name, variable.default)
        if value is None:
            raise _wrong_variable(
                name, "the prompt needs it, and it has no default", "missing_required_parameter"
            )
        values[name] = value
    return values


def _wrong_variable(name: str, why: str, code: str) -> InvalidRequest:
    param = f"prompt.variables.{name[:64]}"
    return InvalidRequest(f"'{param}': {why}", param=param, code=code)


def _texts(messages: bytes) -> Iterator[str]:
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    for message in _decode_messages(messages):
        _map_texts(message, note)
    return iter(found)


def _map_texts(message: Body, change: MapText) -> None:
    """Change the texts of a message in their place: its content, or its parts of type text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = change(content)
    elif isinstance(content, list):
        for part in content:
            if isinstance(part.get("text"), str):
                part["text"] = change(part["text"])
