"""llama.cpp itself: its server runs on threads of this process and is spoken to by HTTP.

xllamacpp offers calls with callbacks too. They block a thread each, have no way to cancel but from
inside a callback, and a callback that waits for Python's lock makes its stream wait. The server's
own HTTP side, on a UNIX socket that only this user can open, has none of that: no port, the loop
reads bytes as from any upstream, and closing a connection frees the slot.
"""

import asyncio
import contextlib
import difflib
import enum
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from schemas.errors import EngineUnavailable
from schemas.providers import LlamacppOptions
from workers.inference.engines.llama.gguf import Header
from workers.inference.engines.llama.models import Tell, find_model

if TYPE_CHECKING:
    import xllamacpp

DEFAULT_CONTEXT = 4096
SMALL = 50 << 20  # bytes of a model for which handing work to a second thread costs more than it is
_UBATCH = 512
_EMBEDDED = 2048  # tokens of an input that is embedded: it must fit one physical batch
_HTTP_THREADS = 8  # beside those of the runs: counts, health, connections that are closing
_EXPLAIN_SECONDS = 60
_STARTING_SECONDS = 30
_LOOP_SECONDS = 60.0
_PATH_LIMIT = 100  # bytes; the kernel's is 108

_FLASH = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}
# What this engine decides: another value would break it, or open a port.
_OURS = [
    "model",
    "mmproj",
    "hostnames",
    "port",
    "api_keys",
    "api_prefix",
    "public_path",
    "ssl_file_key",
    "ssl_file_cert",
    "server_base",
    "server_tools",
    "mcp_servers_config",
    "mcp_servers_json",
    "models_dir",
    "models_preset",
    "models_preset_hf",
    "slot_save_path",
    "media_path",
    "n_ctx",
    "n_parallel",
    "n_batch",
    "n_ubatch",
    "n_gpu_layers",
    "n_threads_http",
    "flash_attn_type",
    "cache_type_k",
    "cache_type_v",
    "embedding",
    "pooling_type",
    "kv_unified",
    "chat_template",
    "sleep_idle_seconds",
    "ui",
    "verbosity",
]


class Library:
    """A model that is loaded, and where to reach it: `socket`, with `key`."""

    def __init__(self, options: LlamacppOptions) -> None:
        self._options = options
        self._server: xllamacpp.Server | None = None
        self.socket = ""
        self.caches_prompts = True
        self.key = secrets.token_urlsafe(24)

    async def open(self, tell: Tell) -> None:
        """Load the model, off the loop. Raises EngineUnavailable."""
        loop = asyncio.get_running_loop()

        def tell_from_there(word: str) -> None:
            loop.call_soon_threadsafe(tell, word)

        await asyncio.to_thread(self._open, tell_from_there)

    async def close(self) -> None:
        """Let go of the model's memory, when its threads have ended."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._server = None
        if self.socket:
            Path(self.socket).unlink(missing_ok=True)

    def _open(self, tell: Tell) -> None:
        options = self._options
        file, header = find_model(options.path, tell)
        tell(f"loading {file.name} ({header.architecture}, {max(1, header.size >> 20)} MiB)")
        context = context_of(options, header)
        cache = options.cache_prompt
        self.caches_prompts = header.size >= SMALL if cache is None else cache
        _check_memory(options, header, context)
        self.socket = _new_socket()
        params = self._to_params(file, header, context)
        import xllamacpp  # noqa: PLC0415 - 100 MB that other engines need not load

        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError:
            reason = _explain(file)
            raise EngineUnavailable(f"{options.path}: {reason}") from None
        self._await_loop()

    def _await_loop(self) -> None:
        """Wait until the library's own loop turns.

        It says that it is ready before that, and one that is told to end then never does: the
        library waits for it with Python's lock held, and with it everything in this process.
        """
        connection = HTTPConnection("llama.cpp", timeout=_LOOP_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(_LOOP_SECONDS)
        try:
            connection.sock.connect(self.socket)
            headers = {"Authorization": f"Bearer {self.key}", "Connection": "close"}
            connection.request("GET", "/slots", headers=headers)  # answered by the loop
            status = connection.getresponse().status
        except (OSError, HTTPException) as error:
            raise EngineUnavailable(f"{self._options.path}: llama.cpp is silent: {error}") from None
        finally:
            connection.close()
        if status != HTTPStatus.OK:
            raise EngineUnavailable(f"{self._options.path}: llama.cpp answers {status}")

    def _to_params(self, file: Path, header: Header, context: int) -> "xllamacpp.CommonParams":
        import xllamacpp as library  # noqa: PLC0415 - as above

        options = self._options
        params = library.CommonParams()
        params.cache_ram_mib = 0  # 8 GiB by default, beside what the caches of the runs take
        threads = options.n_threads or threads_for(header.size)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        _set_all(params, options.params)
        params.model.path = str(file)
        params.hostnames = [self.socket]
        params.port = 0
        params.api_keys = [self.key]
        params.ui = False
        params.verbosity = 1  # errors
        params.n_threads_http = options.n_parallel + _HTTP_THREADS
        params.n_parallel = options.n_parallel
        params.n_ctx = context * options.n_parallel
        params.kv_unified = False  # no run takes another's room
        params.n_gpu_layers = options.n_gpu_layers
        params.flash_attn_type = getattr(
            library.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{_FLASH[options.flash_attn]}"
        )
        for name in ("cache_type_k", "cache_type_v"):
            kind = getattr(options, name)
            setattr(params, name, getattr(library.ggml_type, f"GGML_TYPE_{kind.upper()}"))
        ubatch = options.n_ubatch or (min(context, _EMBEDDED) if options.embeddings else _UBATCH)
        params.n_ubatch = ubatch
        params.n_batch = ubatch if options.embeddings else options.n_batch or max(2048, ubatch)
        params.embedding = options.embeddings
        if options.pooling is not None:
            pooling = f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"
            params.pooling_type = getattr(library.llama_pooling_type, pooling)
        template = _template_of(options)
        if template is not None:
            params.chat_template = template
        if options.mmproj is not None:
            projector, _ = find_model(options.mmproj, _ignore)
            params.mmproj.path = str(projector)
        return params


def context_of(options: LlamacppOptions, header: Header) -> int:
    """How many tokens one run may have: prompt and answer."""
    made_for = header.context_length or DEFAULT_CONTEXT
    return min(options.n_ctx or DEFAULT_CONTEXT, made_for)


def threads_for(size: int) -> int:
    """How many threads a model of so many bytes is worth: the machine's cores, for a small one 1.

    Of the two threads of one core the second adds nothing to what is bound by memory.
    """
    if size < SMALL:
        return 1
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(cores, allowed))


def _check_memory(options: LlamacppOptions, header: Header, context: int) -> None:
    """Refuse what can't fit: Linux would let it start, and end it at some later time."""
    if options.n_gpu_layers > 0:
        return
    need = header.size + header.cache_bytes(context * options.n_parallel)
    free = psutil.virtual_memory().available
    if need > free:
        raise EngineUnavailable(
            f"{options.path}: not enough memory: {need >> 20} MiB for {options.n_parallel} runs of"
            f" {context} tokens, and {free >> 20} MiB are free (n_ctx and n_parallel make it less)"
        )


def _template_of(options: LlamacppOptions) -> str | None:
    if options.chat_template_file is None:
        return options.chat_template
    try:
        return Path(options.chat_template_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = (getattr(error, "strerror", None) or str(error)).lower()
        raise EngineUnavailable(f"{options.chat_template_file}: {words}") from None


def _set_all(params: Any, given: dict[str, bool | int | float | str]) -> None:
    """Set what the file gives by the library's own names. Raises EngineUnavailable."""
    for name, value in given.items():
        *path, last = name.split(".")
        if name in _OURS or (path and path[0] in _OURS):
            raise EngineUnavailable(f"params.{name}: this is set by the options, or by the server")
        part = params
        for step in path:
            part = getattr(part, step, None)
        if part is None or last.startswith("_") or not hasattr(part, last):
            raise EngineUnavailable(
                f"params.{name}: llama.cpp has no such key{_near(name, params)}"
            )
        try:
            setattr(part, last, _to_kind(getattr(part, last), value))
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise EngineUnavailable(f"params.{name}: {error}") from None


def _to_kind(now: object, value: bool | int | float | str) -> object:
    """A value in the kind that the library has there; an enum's member by the end of its name."""
    if isinstance(now, enum.Enum):
        members = type(now).__members__
        for name, member in members.items():
            if name.endswith(f"_{str(value).upper()}"):
                return member
        raise ValueError(f"must be one of {', '.join(members)}")
    if isinstance(now, bool) and not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _near(name: str, params: object) -> str:
    known = [other for other in dir(params) if not other.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _new_socket() -> str:
    """A path for a socket in a folder that only this user can enter; what was left is removed."""
    folder = Path(tempfile.gettempdir()) / f"jan-llamacpp-{os.getuid()}"
    if len(str(folder)) > _PATH_LIMIT - 30:
        folder = Path("/tmp") / folder.name  # noqa: S108 - checked below like any other
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    told = folder.lstat()
    if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.getuid() or told.st_mode & 0o077:
        raise EngineUnavailable(f"{folder} is not a folder of this user alone: remove it")
    for left in folder.glob("*.sock"):
        if _is_dead(left):
            left.unlink(missing_ok=True)
    return str(folder / f"{secrets.token_hex(8)}.sock")


def _is_dead(path: Path) -> bool:
    """Whether a socket is one of a process that was killed; a new one may not listen yet."""
    try:
        if time.time() - path.lstat().st_mtime < _STARTING_SECONDS:
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


_LOAD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.verbosity = sys.argv[1], [sys.argv[2]], 1
params.n_ctx, params.warmup, params.n_parallel = 64, False, 1
xllamacpp.Server(params)
"""


def _explain(file: Path) -> str:
    """Why the library could not load a file: it tells only its log, which a child process has."""
    argv = [sys.executable, "-c", _LOAD, str(file), _new_socket()]
    try:
        told = subprocess.run(
            argv,
            capture_output=True,
            timeout=_EXPLAIN_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "llama.cpp can't load it"
    if told.returncode == 0:
        return "llama.cpp can't make room for it: lower n_ctx, n_parallel or n_gpu_layers"
    for line in told.stderr.decode(errors="replace").splitlines():
        _, found, reason = line.partition("error loading model: ")
        if found:
            return f"llama.cpp can't load it: {reason.strip()}"
    return "llama.cpp can't load it"


def _ignore(_word: str) -> None:
    """A projector is small: nobody waits for it."""
