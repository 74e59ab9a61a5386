"""Asks providers which models they have, where providers.yaml says to discover them."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Mapping

import msgspec

from cli.exits import Exit
from schemas.providers import AnthropicProvider, AnyProvider, OpenAIProvider, Providers

SECONDS = 10.0
_MOST_BYTES = 16 << 20
_ANTHROPIC = {"anthropic-version": "2023-06-01"}


class _Named(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Named]


async def discover_all(providers: Providers) -> tuple[dict[str, list[str]], list[str]]:
    """The names of the models that each provider lists, and one line for each that does not.

    Of a provider without an answer, what is known of it stays.
    """
    asked = [provider for provider in providers.providers if provider.discover is not None]
    answers = await asyncio.gather(
        *(asyncio.to_thread(discover, provider) for provider in asked), return_exceptions=True
    )
    found: dict[str, list[str]] = {}
    faults: list[str] = []
    for provider, answer in zip(asked, answers, strict=True):
        if isinstance(answer, Exit):
            faults.append(str(answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found[provider.name] = answer
    return found, faults


def discover(provider: AnyProvider) -> list[str]:
    """Ask one provider. Raises Exit with one line that has no secret in it."""
    assert isinstance(provider, OpenAIProvider | AnthropicProvider)
    what = f"provider {provider.name}: its list of models"
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked with the file
        f"{provider.base_url}/models", headers=dict(_headers(provider))
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            found = msgspec.json.decode(answer.read(_MOST_BYTES), type=_ModelList)
    except urllib.error.HTTPError as error:
        raise Exit(f"{what} is refused ({error.code}): is its api_key right?") from None
    except (OSError, ValueError) as error:  # ValueError: no list of models
        reason = getattr(error, "reason", error)
        words = str(getattr(reason, "strerror", None) or type(reason).__name__).lower()
        raise Exit(f"{what} can't be read ({words})") from None
    return [model.id for model in found.data]


def _headers(provider: OpenAIProvider | AnthropicProvider) -> Mapping[str, str]:
    headers = {"Accept": "application/json"}
    key = provider.api_key.get_secret_value() if provider.api_key else ""
    if isinstance(provider, AnthropicProvider):
        headers |= _ANTHROPIC | ({"x-api-key": key} if key else {})
    elif key:
        headers["Authorization"] = f"Bearer {key}"
    names = {name.lower() for name in provider.headers}
    kept = {name: value for name, value in headers.items() if name.lower() not in names}
    return kept | provider.headers
