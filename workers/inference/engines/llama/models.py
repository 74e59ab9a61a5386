"""Where a model's file is: on this machine, in this installation, or on a hub."""

import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from schemas.errors import EngineUnavailable
from workers.inference.engines.llama.gguf import Header, NotAModel, read_header

ROOT = Path(__file__).resolve().parents[4]
HUB = "https://huggingface.co"
_CONNECT_SECONDS = 20
_PIECE = 1 << 20
_TELL_SECONDS = 2.0

Tell = Callable[[str], None]


def find_model(path: str, tell: Tell) -> tuple[Path, Header]:
    """Find a model's file, fetch it if it is on a hub, and check it. Raises EngineUnavailable."""
    file = _locate(path, tell)
    try:
        return file, read_header(file)
    except NotAModel as error:
        raise EngineUnavailable(f"{path}: {error}") from None
    except FileNotFoundError:
        raise EngineUnavailable(f"{path}: there is no such file") from None
    except OSError as error:
        raise EngineUnavailable(f"{path}: {(error.strerror or str(error)).lower()}") from None


def cached(path: str) -> Path:
    """Where a hub's file is kept: in the data folder if there is one, else in the user's cache."""
    data = os.environ.get("JAN_DATA")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(data) if data else Path(cache) / "jan"
    return folder / "models" / "--".join(_hub_parts(path))


def _locate(path: str, tell: Tell) -> Path:
    if path.startswith("hf:"):
        return _fetch(path, tell)
    if path.startswith("builtin:"):
        return ROOT / "models" / f"{path.removeprefix('builtin:')}.gguf"
    return Path(path).expanduser()


def _hub_parts(path: str) -> list[str]:
    parts = path.removeprefix("hf:").split("/")
    if len(parts) < 3 or any(part in ("", ".", "..") for part in parts):
        raise EngineUnavailable(f"{path}: say hf:OWNER/REPO/FILE.gguf")
    return parts


def _fetch(path: str, tell: Tell) -> Path:
    """Download a hub's file unless it is here. Raises EngineUnavailable with what went wrong."""
    file = cached(path)
    if file.exists():
        return file
    owner, repository, *rest = _hub_parts(path)
    base = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    url = f"{base}/{quote(owner)}/{quote(repository)}/resolve/main/{quote('/'.join(rest))}"
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, lambda word: tell(f"{path}: {word}"))
        part.replace(file)
    except urllib.error.HTTPError as error:
        hint = " (a gated repository wants HF_TOKEN)" if error.code in (401, 403) else ""
        raise EngineUnavailable(f"{path}: {base} answers {error.code}{hint}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        words = str(getattr(reason, "strerror", None) or reason).lower()
        raise EngineUnavailable(f"{path}: can't be fetched from {base} ({words})") from None
    finally:
        part.unlink(missing_ok=True)
    return file


def _download(url: str, part: Path, tell: Tell) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError("HF_ENDPOINT must begin with http:// or https://")
    request = urllib.request.Request(url, headers={"User-Agent": "jan-server"})  # noqa: S310
    token = os.environ.get("HF_TOKEN")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    with (
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS) as answer,  # noqa: S310
        part.open("wb") as file,
    ):
        total = int(answer.headers.get("Content-Length") or 0)
        if total > shutil.disk_usage(part.parent).free:
            raise OSError(f"{total >> 20} MiB, and the disk has no room for it")
        _copy(answer.read, file.write, total, tell)


def _copy(
    read: Callable[[int], bytes], write: Callable[[bytes], int], total: int, tell: Tell
) -> None:
    done, told = 0, time.monotonic()
    while piece := read(_PIECE):
        write(piece)
        done += len(piece)
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            tell(f"{done >> 20} MiB of {total >> 20 or '?'}")
    if done < total:
        raise OSError("the connection was cut")
