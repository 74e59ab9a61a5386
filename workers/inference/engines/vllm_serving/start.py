"""Starts vLLM as `vllm serve` would, without its HTTP server."""

import asyncio
import difflib
import importlib.util
import itertools
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import EngineUnavailable
from schemas.providers import VllmProvider
from workers.inference.engines.contract import Tell
from workers.inference.engines.vllm_serving.keeper import Keeper
from workers.inference.engines.vllm_serving.load import Load

_TELL_EVERY = 5  # seconds
_LONG = 500  # characters of a reason
_INSTALL = f"{sys.executable} -m pip install 'vllm>=0.32,<0.33'"
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # nobody is told that it runs
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would copy the worker's threads' locks
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True, slots=True)
class Serving:
    """vLLM's engine and the parts of its serving layer; None for what the model can't do."""

    client: Any
    keeper: Keeper
    chat: Any
    completion: Any
    embedding: Any


def _to_listener(load: Load) -> Any:
    """Make the listener that vLLM wants, which keeps the load up to date."""
    from vllm.v1.metrics.loggers import StatLoggerBase  # noqa: PLC0415

    class Listener(StatLoggerBase):  # type: ignore[misc]  # vLLM may not be there to check
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            super().__init__(vllm_config, engine_index)
            self.engine = engine_index

        def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
            if scheduler_stats is not None:
                waiting, cache = scheduler_stats.num_waiting_reqs, scheduler_stats.kv_cache_usage
                load.said(self.engine, waiting, cache)
            if iteration_stats is not None:
                for ended in iteration_stats.finished_requests:
                    load.ended(ended.num_prompt_tokens + ended.num_generation_tokens)

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    return Listener


def require_vllm() -> None:
    """Raise EngineUnavailable, with the command that installs it, if vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise EngineUnavailable(f"vLLM is not installed: {_INSTALL} installs it")


async def start(provider: VllmProvider, load: Load, tell: Tell) -> Serving:
    """Load the model, which takes a minute or more. Raises EngineUnavailable."""
    require_vllm()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    tell("starting vLLM")
    # In threads: importing takes ten seconds, loading minutes, and heartbeats must go on.
    try:
        args = await asyncio.to_thread(_to_args, provider)
    except ImportError as error:
        raise EngineUnavailable(f"this vLLM can't be used ({error}): {_INSTALL}") from error
    except Exception as error:
        raise _to_unavailable(error) from error
    keeper = Keeper()
    loading = asyncio.create_task(asyncio.to_thread(_load, args, _to_listener(load)))
    try:
        client = await _wait(loading, str(args.model), keeper, tell)
        _measure(client.vllm_config, load)
        tell("preparing templates")
        return await _to_serving(client, keeper, args)
    except asyncio.CancelledError:
        # The thread can't be stopped, but it fails when what it waits for is killed.
        loading.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        keeper.look()
        keeper.close()
        raise
    except Exception as error:
        await asyncio.to_thread(keeper.close)
        raise _to_unavailable(error) from error


def _measure(config: Any, load: Load) -> None:
    """Tell the load what vLLM's engines can have together."""
    engines = config.parallel_config.data_parallel_size
    tokens = config.cache_config.kv_cache_size_tokens  # of each
    load.begin(
        config.scheduler_config.max_num_seqs * engines,
        config.model_config.max_model_len,
        tokens and tokens * engines,
        config.cache_config.block_size,
    )


async def _wait(loading: "asyncio.Task[Any]", model: str, keeper: Keeper, tell: Tell) -> Any:
    begin = time.monotonic()
    for second in itertools.count():
        if second % _TELL_EVERY == 0:
            tell(f"loading {model}: {time.monotonic() - begin:.0f} s")
        done, _ = await asyncio.wait([loading], timeout=1.0)
        keeper.look()
        if done:
            break
    return loading.result()


def _to_args(provider: VllmProvider) -> Namespace:
    """The arguments of `vllm serve` as the provider gives them."""
    from vllm.entrypoints.launchers.cli_args import (  # noqa: PLC0415
        make_arg_parser,
        validate_parsed_serve_args,
    )
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM may not be there to check
        def error(self, message: str) -> Any:
            raise EngineUnavailable(f"engine_args of {provider.name}: {_one_line(message)}")

    parser = make_arg_parser(Parser())
    known = vars(parser.parse_args([]))
    given = to_engine_args(provider)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise EngineUnavailable(
                f"engine_args of {provider.name}: vLLM has no argument {name}{hint}"
            )
    args = parser.parse_args(to_arguments(given, known))
    validate_parsed_serve_args(args)
    if args.model.startswith(("/", "./", "../")) and not os.path.exists(args.model):
        raise EngineUnavailable(f"model of {provider.name}: there is no {args.model}")
    return Namespace(**vars(args))


def to_engine_args(provider: VllmProvider) -> dict[str, Any]:
    """A provider's engine_args with what the provider says elsewhere."""
    options = provider.options
    loras = options.engine_args.get("lora_modules") or {}
    names = [model.name_upstream for model in provider.models]
    own = [name for name in dict.fromkeys(names) if name not in loras] or names[:1]
    given: dict[str, Any] = {"model": own[0], "served_model_name": own}
    if loras:
        given["enable_lora"] = True
    if options.tool_parser is not None:
        given |= {"enable_auto_tool_choice": True, "tool_call_parser": options.tool_parser}
    if options.reasoning_parser is not None:
        given["reasoning_parser"] = options.reasoning_parser
    if options.chat_template is not None:
        given["chat_template"] = options.chat_template
    return given | options.engine_args


def to_arguments(given: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """Write named values as vLLM's command line has them: its own parser judges them."""
    arguments: list[str] = []
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if name == "lora_modules" and isinstance(value, dict):
            arguments += [option, *(f"{lora}={path}" for lora, path in value.items())]
        elif value is True:
            arguments.append(option)
        elif value is False:
            if known[name]:
                arguments.append("--no-" + option[2:])
        elif isinstance(value, list):
            items = (item if isinstance(item, str) else json.dumps(item) for item in value)
            arguments += [option, *items]
        elif value is not None:
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            arguments.append(f"{option}={text}")
    return arguments


def _load(args: Namespace, listener: Any) -> Any:
    """Start the engine. Blocks."""
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    engine_args = AsyncEngineArgs.from_cli_args(args)
    return AsyncLLM.from_engine_args(engine_args, stat_loggers=[listener])


async def _to_serving(client: Any, keeper: Keeper, args: Namespace) -> Serving:
    from starlette.datastructures import State  # noqa: PLC0415
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state  # noqa: PLC0415

    state = State()
    tasks = await client.get_supported_tasks()
    await init_app_state(client, state, args, tasks)
    return Serving(
        client,
        keeper,
        getattr(state, "openai_serving_chat", None),
        getattr(state, "openai_serving_completion", None),
        getattr(state, "serving_embedding", None),
    )


def _to_unavailable(error: Exception) -> EngineUnavailable:
    if isinstance(error, EngineUnavailable):
        return error
    return EngineUnavailable(f"vLLM can't start: {_one_line(str(error)) or type(error).__name__}")


def _one_line(message: str) -> str:
    """What pydantic or vLLM says on many lines, without the address of a help page."""
    return " ".join(message.partition("For further information")[0].split())[:_LONG]
