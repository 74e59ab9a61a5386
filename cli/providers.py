"""Which providers a start of the server has: a file, an upstream to ask, or the simulated one."""

import asyncio
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from cli.exits import BadSetup
from cli.state import Data, write_private
from schemas.providers import Providers, ProvidersError, default_providers, read_providers

OPENAI = "https://api.openai.com/v1"
DISCOVERY_SECONDS = 10
_KEY_VARIABLE = "OPENAI_API_KEY"
_MARK = "# Written at each start with --upstream or OPENAI_API_KEY."


@dataclass(frozen=True)
class Served:
    """The providers of this start; without a `path` they are the built-in ones."""

    providers: Providers
    path: Path | None

    @property
    def simulated(self) -> bool:
        """Whether nothing but the simulated model is served."""
        return all(provider.kind == "simulated" for provider in self.providers.providers)

    @property
    def example_model(self) -> str:
        """A model to show in an example: the first that chats."""
        models = [model for provider in self.providers.providers for model in provider.models]
        chatting = [model for model in models if "chat" in model.capabilities]
        return (chatting or models)[0].id

    def environment(self) -> dict[str, str]:
        """What tells our processes of them."""
        return {"JAN_PROVIDERS": str(self.path)} if self.path else {}


async def choose(file: str | None, upstream: str | None, data: Data) -> Served:
    """Find the providers of this start, and check them. Raises BadSetup."""
    if file and not upstream:
        return _from_file(file)
    key = os.environ.get(_KEY_VARIABLE, "")
    path = data.path / "providers.yaml"
    if not upstream and _is_by_hand(path):
        return Served(read(path, str(path)), path)
    if not upstream and not key:
        path.unlink(missing_ok=True)  # of an earlier start's --upstream
        return Served(default_providers(), None)
    base = (upstream or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
    models = await asyncio.to_thread(discover, base, key)
    write_private(path, to_yaml(base, models, with_key=bool(key)).encode())
    return Served(read(path, "--upstream"), path)


def _from_file(file: str) -> Served:
    path = Path(file).expanduser().resolve()
    return Served(read(path, file), path)


def _is_by_hand(path: Path) -> bool:
    return path.exists() and not path.read_text(errors="replace").startswith(_MARK)


def read(path: Path, name: str) -> Providers:
    """Read a providers file. Raises BadSetup with one line that says what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
        return read_providers(text, name=name, folder=path.parent)
    except ProvidersError as error:
        raise BadSetup(str(error)) from None
    except UnicodeDecodeError:
        raise BadSetup(f"{name}: not a text in UTF-8") from None
    except OSError as error:
        raise BadSetup(f"{name}: {(error.strerror or str(error)).lower()}") from None


class _Named(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Named]


def discover(base: str, key: str) -> list[str]:
    """Ask an OpenAI-compatible server for its models. Raises BadSetup if it has no answer."""
    if not base.startswith(("http://", "https://")):
        raise BadSetup(f"--upstream {base}: must be a URL that begins with http:// or https://")
    request = urllib.request.Request(f"{base}/models")  # noqa: S310 - the scheme is checked above
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=DISCOVERY_SECONDS) as answer:  # noqa: S310
            found = msgspec.json.decode(answer.read(), type=_ModelList)
    except urllib.error.HTTPError as error:
        hint = f": is {_KEY_VARIABLE} right?" if error.code in (401, 403) else ""
        raise BadSetup(f"{base}/models answers {error.code}{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: no list of models, or no URL
        reason = getattr(error, "reason", error)
        words = str(getattr(reason, "strerror", None) or reason).lower()
        raise BadSetup(f"{base}/models can't be read ({words})") from None
    if not found.data:
        raise BadSetup(f"{base}/models lists no model")
    return [model.id for model in found.data]


def to_yaml(base: str, models: list[str], *, with_key: bool) -> str:
    """Write the providers file of one upstream; its key stays in the environment."""
    provider: dict[str, object] = {"name": "upstream", "kind": "openai", "base_url": base}
    if with_key:
        provider["api_key"] = "${" + _KEY_VARIABLE + "}"
    provider["models"] = [{"id": model.replace("${", "$${")} for model in models]
    return f"{_MARK}\n{yaml.safe_dump({'providers': [provider]}, sort_keys=False)}"
