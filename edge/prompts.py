"""Requests that refer to a prompt: its messages come first, its model serves if none is named."""

from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from edge.orders import Order
from schemas.api import chat
from schemas.api.needs import Needs, needs_of
from schemas.api.prompts import MAX_VARIABLES_BYTES, Rendered
from schemas.commands import UsedPrompt, encode
from schemas.errors import InvalidRequest
from schemas.queries import AskStored, decode_answer
from schemas.queries.prompts import AskRendered

REFERENCE: Final = b'"prompt"'  # a body without it refers to none
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Prompted(NamedTuple):
    """A request with a prompt's messages in it, and which prompt that was."""

    body: bytes
    used: UsedPrompt


async def with_prompt(
    body: bytes, ask: AskStored, principal: str, used: UsedPrompt | None = None
) -> Prompted | None:
    """The request with what it refers to in its place; None if it refers to nothing.

    `used`: what the reference stood for before, whatever it stands for now. Raises NotFound,
    InvalidRequest naming `prompt.variables.x`, Unavailable.
    """
    request = chat.decode_prompted(body)
    if request.prompt is None:
        return None
    rendered = await render(ask, principal, request.prompt, used)
    fields = _split(body)
    del fields["prompt"]
    own = _split_list(fields.get("messages", b"[]"))
    fields["messages"] = msgspec.Raw(encode([*rendered.messages, *own]))
    if not request.model and rendered.model is not None:
        fields["model"] = msgspec.Raw(encode(rendered.model))
    return Prompted(encode(fields), UsedPrompt(rendered.id, rendered.version))


async def render(
    ask: AskStored, principal: str, prompt: chat.PromptReference, used: UsedPrompt | None = None
) -> Rendered:
    """A prompt with its variables filled in; `used` is what it stood for before.

    Raises NotFound, InvalidRequest, Unavailable.
    """
    version = int(prompt.version) if prompt.version is not None else None
    question = AskRendered(
        principal=principal,
        id=used.id if used is not None else prompt.id,
        version=used.version if used is not None else version,
        variables=_to_values(prompt),
    )
    return decode_answer(await ask("prompts", "render", question), Rendered)


def in_own_words(order: Order, body: bytes, prompted: Prompted) -> Order:
    """The order for a resolved request, with the client's body and its names of the fields."""
    own = chat.decode_prompted(body)
    needs = _to_needs(order.needs, own)
    return replace(order, body=body, resolved=prompted.body, prompt=prompted.used, needs=needs)


def _to_needs(needs: Needs, own: chat.PromptedRequest) -> Needs:
    """What needs a capability: the client's own field, or else something in the prompt."""
    named = needs_of(own)
    return {capability: named.get(capability, "prompt") for capability in needs}


def _to_values(reference: chat.PromptReference) -> dict[str, str]:
    values = {
        name: value if isinstance(value, str) else value.text
        for name, value in (reference.variables or {}).items()
    }
    if sum(len(name) + len(value) for name, value in values.items()) > MAX_VARIABLES_BYTES:
        raise InvalidRequest(
            f"'prompt.variables' have more than {MAX_VARIABLES_BYTES} bytes",
            param="prompt.variables",
        )
    return values
