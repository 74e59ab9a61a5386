"""Asks providers which models they have, where providers.yaml says to discover them."""

import asyncio

import msgspec

from cli.exits import Exit
from schemas.errors import JanError
from schemas.providers import (
    AnthropicProvider,
    AnyProvider,
    HttpOptions,
    OpenAIProvider,
    Providers,
)
from workers.inference.engines.http import Client, Headers, Limits

SECONDS = 10.0
_MOST_BYTES = 16 << 20
_OK = 200


class _Named(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Named]


_decode = msgspec.json.Decoder(_ModelList).decode


async def discover_all(providers: Providers) -> tuple[dict[str, list[str]], list[str]]:
    """The names of the models that each provider lists, and one line for each that does not.

    Of a provider without an answer, what is known of it stays.
    """
    asked = [provider for provider in providers.providers if provider.discover is not None]
    answers = await asyncio.gather(*map(discover, asked), return_exceptions=True)
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


async def discover(provider: AnyProvider) -> list[str]:
    """Ask one provider. Raises Exit with one line that has no secret in it."""
    assert isinstance(provider, OpenAIProvider | AnthropicProvider)
    what = f"provider {provider.name}: its list of models"
    client = _open_client(provider)
    answer = _Answer()
    try:
        await client.exchange("GET", "/models", answer, first_byte=SECONDS, seconds=SECONDS)
        if answer.status != _OK:
            hint = ": is its api_key right?" if answer.status in (401, 403) else ""
            raise Exit(f"{what} is refused with status {answer.status}{hint}")
        return [model.id for model in _decode(answer.body).data]
    except JanError as error:
        words = error.message
        for secret in client.secrets:
            words = words.replace(secret, "***")
        raise Exit(f"{what} can't be read ({words})") from None
    except msgspec.DecodeError:
        raise Exit(f"{what} is not what it should be") from None
    finally:
        await client.close()


class _Answer:
    """Collects an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    def on_head(self, status: int, headers: Headers) -> None:  # noqa: ARG002 - as the client calls
        """Keep the status."""
        self.status = status

    def on_data(self, data: bytes) -> bool:
        """Keep a piece, and stop where no list of models can go on."""
        self.body += data
        return len(self.body) > _MOST_BYTES


def _open_client(provider: OpenAIProvider | AnthropicProvider) -> Client:
    options = provider.options if isinstance(provider.options, HttpOptions) else HttpOptions()
    return Client(
        provider.base_url,
        _headers(provider),
        Limits(
            connections=1,
            connect=options.connect_s,
            first_byte=SECONDS,
            first_token=SECONDS,
            between=SECONDS,
        ),
        proxy=options.proxy.get_secret_value(),
        ca_file=options.ca_file,
    )


def _headers(provider: OpenAIProvider | AnthropicProvider) -> dict[str, str]:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    key = provider.api_key.get_secret_value() if provider.api_key else ""
    if isinstance(provider, AnthropicProvider):
        headers |= {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})
    elif key:
        headers["Authorization"] = f"Bearer {key}"
    names = {name.lower() for name in provider.headers}
    kept = {name: value for name, value in headers.items() if name.lower() not in names}
    return kept | provider.headers
