"""Answers that must be valid under a JSON Schema, where no engine sees to it."""

from typing import Any, Final

import jsonschema_rs
import msgspec

from schemas.api.responses import JsonSchemaFormat
from schemas.responses.fold import ResponseFold
from schemas.responses.prepared import PreparedRequest
from workers.runtime.apart import apart, preload

preload(__name__)
_SECONDS: Final = 5
_TRIES: Final = 1  # corrections; a model that errs twice does so again


async def to_correction(request: PreparedRequest, fold: ResponseFold) -> str | None:
    """What to tell the model of its last answer; None if that is right, or was tried before."""
    speech = fold.to_judge
    wanted = request.text.format if request.text is not None else None
    if speech is None or speech.calls or not isinstance(wanted, JsonSchemaFormat):
        return None
    if fold.cut is not None or fold.corrections >= _TRIES:
        return None
    try:
        # A schema may make checking take for ever, and its library lets nothing run beside it.
        fault = await apart(_SECONDS, find_fault, speech.spoken, wanted.schema)
    except TimeoutError:
        return None
    return f"That is not valid: {fault}. Answer again, with the JSON alone." if fault else None


def find_fault(text: str, schema: dict[str, Any]) -> str | None:
    """Say what is wrong with a text that should be JSON of a form."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"it is no JSON ({error})"
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_refuse)
    except (jsonschema_rs.ValidationError, ValueError):
        return None  # nothing can be valid under it
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        return error.message
    return None


def _refuse(uri: str) -> Any:
    """A schema that refers to others elsewhere would have us fetch them."""
    raise ValueError(f"{uri} is not fetched")
