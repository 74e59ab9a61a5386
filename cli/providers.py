"""Which providers a start has: a file's, local models, an upstream's, or what comes along."""

import asyncio
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from cli.exits import BadSetup
from cli.state import Data, write_private
from schemas.errors import EngineUnavailable
from schemas.providers import (
    LlamacppProvider,
    Providers,
    ProvidersError,
    default_providers,
    read_providers,
)

OPENAI = "https://api.openai.com/v1"
DISCOVERY_SECONDS = 10
_KEY_VARIABLE = "OPENAI_API_KEY"
_MARK = "# Written at each start with --"
_HEAD = f"{_MARK}model, --upstream or OPENAI_API_KEY."


@dataclass(frozen=True)
class Served:
    """The providers of this start; without a `path` they are the built-in ones."""

    providers: Providers
    path: Path | None

    @property
    def toys(self) -> bool:
        """Whether what comes along is served, as nobody has said what else."""
        return self.path is None

    @property
    def example_model(self) -> str:
        """A model to show in an example: the first that chats."""
        models = [model for provider in self.providers.providers for model in provider.models]
        chatting = [model for model in models if "chat" in model.capabilities]
        return (chatting or models)[0].id if models else "MODEL"  # discovered: nobody knows yet

    def environment(self) -> dict[str, str]:
        """What tells our processes of them."""
        return {"JAN_PROVIDERS": str(self.path)} if self.path else {}


async def choose(file: str | None, upstream: str | None, models: list[str], data: Data) -> Served:
    """Find the providers of this start, and check them. Raises BadSetup."""
    served = await _choose(file, upstream, models, data)
    await asyncio.to_thread(check_files, served.providers)
    return served


async def _choose(file: str | None, upstream: str | None, models: list[str], data: Data) -> Served:
    asked = bool(upstream or models)
    if file and not asked:
        return _from_file(file)
    key = os.environ.get(_KEY_VARIABLE, "")
    path = data.path / "providers.yaml"
    if not asked and _is_by_hand(path):
        return Served(read(path, str(path)), path)
    if not asked and not key:
        path.unlink(missing_ok=True)  # of an earlier start's --upstream or --model
        return Served(default_providers(), None)
    found = [to_local(model, number) for number, model in enumerate(models, start=1)]
    if upstream or not models:
        base = (upstream or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
        names = await asyncio.to_thread(discover, base, key)
        found.append(to_remote(base, names, with_key=bool(key)))
    write_private(path, to_yaml(found).encode())
    return Served(read(path, "--model" if models else "--upstream"), path)


def check_files(found: Providers) -> None:
    """Look at the models that lie on this machine. Raises BadSetup with what is wrong with one."""
    from workers.inference.engines.llama.models import find_model  # noqa: PLC0415 - not for all

    for provider in found.providers:
        if not isinstance(provider, LlamacppProvider) or provider.options.path.startswith("hf:"):
            continue
        try:
            find_model(provider.options.path, _ignore)
        except EngineUnavailable as error:
            raise BadSetup(error.message) from None


def _ignore(_word: str) -> None:
    """Nothing is fetched here that one would wait for."""


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


Written = dict[str, object]


def to_remote(base: str, models: list[str], *, with_key: bool) -> Written:
    """An upstream as the file has it; its key stays in the environment."""
    provider: Written = {"name": "upstream", "kind": "openai", "base_url": base}
    if with_key:
        provider["api_key"] = "${" + _KEY_VARIABLE + "}"
    provider["models"] = [{"id": _literal(model)} for model in models]
    return provider


def to_local(text: str, number: int) -> Written:
    """A model on this machine as the file has it, of `FILE`, `hf:REPO/FILE` or either `NAME=…`."""
    name, path = _split_model(text)
    if not path.startswith(("hf:", "builtin:")):
        path = str(Path(path).expanduser().absolute())
    return {
        "name": "local" if number == 1 else f"local-{number}",
        "kind": "llamacpp",
        "models": [{"id": _literal(name)}],
        "options": {"path": _literal(path)},
    }


def _split_model(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        path = text
        name = re.sub(r"\s+", "-", Path(text.removeprefix("builtin:")).stem)
    if not name or not path:
        raise BadSetup(f"--model {text}: say FILE.gguf, hf:OWNER/REPO/FILE.gguf, or NAME=FILE.gguf")
    return name, path


def to_yaml(found: list[Written]) -> str:
    """Write the providers file of a start."""
    return f"{_HEAD}\n{yaml.safe_dump({'providers': found}, sort_keys=False)}"


def _literal(text: str) -> str:
    return text.replace("${", "$${")
