"""A client's request in the library's words: what it may see of it, and nothing else.

Fields are passed by name, for the library has some that are none of a client's business (`id_slot`,
`lora`, `verbose`). Every choice of every prompt is a call of its own.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from schemas.errors import UpstreamRejected
from workers.inference.engines.contract import Generation
from workers.inference.engines.messages.extensions import remove_extensions

Fields = dict[str, Any]

MOST_CHOICES = 128
_DEEPEST = 64  # levels of a schema: the library follows them by recursion
_LONGEST_PATTERN = 512
_LARGEST = {"response_format": 64 << 10, "tools": 256 << 10}  # bytes: grammars are made of them
_OPENAI_MAX_TOKENS = 16  # of a completion that does not say

_SAMPLING = [
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "stop",
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "repeat_penalty",
    "repeat_last_n",
    "ignore_eos",
    "dynatemp_range",
    "dynatemp_exponent",
    "xtc_probability",
    "xtc_threshold",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "dry_penalty_last_n",
    "samplers",
]
_COUNTED = ["messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs"]
_CHAT = [
    *_SAMPLING,
    *_COUNTED,
    *["response_format", "logprobs", "top_logprobs", "reasoning_format", "reasoning_effort"],
]
_NAMES = sorted({*_CHAT, "max_tokens", "prompt", "input", "n", "seed"} - {"stop"})


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the library: the choice that it makes, and the fields that ask for it."""

    index: int
    fields: Fields
    echo: bool = False  # the answer begins with the prompt
    empty: bool = False  # nothing is to be generated
    opened: bool = False  # an earlier attempt has sent the beginning

    def with_fields(self, **more: Any) -> "Call":
        """The same call, with other fields."""
        return replace(self, fields=self.fields | more)


def to_calls(job: Generation) -> list[Call]:
    """The calls that make the answer's choices, in their order. Raises UpstreamRejected."""
    _check_size(job)
    body = _decode(job)
    return list(_chat_calls(job, body) if job.kind == "chat" else _completion_calls(job, body))


def _check_size(job: Generation) -> None:
    for name, most in _LARGEST.items():
        if len(bytes(job.body.get(name, b""))) > most:
            raise UpstreamRejected(f"is larger than {most >> 10} KiB", param=name)


def to_count(job: Generation) -> Fields:
    """The fields whose prompt is to be counted. Raises UpstreamRejected."""
    body = _decode(job)
    _check_chat(body)
    return _chat_fields(body, _COUNTED)


def to_embedding(job: Generation) -> Fields:
    """The fields of an embedding. Raises UpstreamRejected."""
    body = _decode(job)
    if not body.get("input"):
        raise UpstreamRejected("must not be empty", param="input")
    return {"input": body["input"]}


def param_of(message: str, kind: str) -> str | None:
    """The field that an error's text is about, if it names one."""
    quoted = [name for name in _NAMES if f"'{name}'" in message or f'"{name}"' in message]
    if quoted:
        return max(quoted, key=len)
    lower = message.lower()
    if "schema" in lower:
        return "response_format"
    if "tool" in lower:
        return "tools"
    if any(word in lower for word in ("image input", "audio input", "video", "mmproj", "message")):
        return "messages" if kind == "chat" else None
    if "prompt" in lower:
        return "messages" if kind == "chat" else "prompt"
    return next((name for name in sorted(_NAMES, key=len, reverse=True) if name in lower), None)


def prompt_param(kind: str) -> str:
    """The field that holds what the model reads."""
    return {"completion": "prompt", "embedding": "input"}.get(kind, "messages")


def _decode(job: Generation) -> Fields:
    """The client's fields; null says the same as nothing."""
    body = dict(job.body)
    remove_extensions(body)
    try:
        decoded = {name: msgspec.json.decode(value) for name, value in body.items()}
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamRejected(f"the request can't be read: {error}") from None
    return {name: value for name, value in decoded.items() if value is not None}


def _chat_calls(job: Generation, body: Fields) -> Iterator[Call]:
    _check_chat(body)
    fields = _chat_fields(body, _CHAT)
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is not None:
        fields["max_tokens"] = _whole("max_tokens", most, 1)
    fields["stream_options"] = {"include_usage": True}
    for index in range(_choices(body)):
        yield Call(index, fields | _common(job, body, index))


def _completion_calls(job: Generation, body: Fields) -> Iterator[Call]:
    prompts = _prompts(body)
    count = _choices(body)
    _check_completion(body, count)
    fields = {name: body[name] for name in _SAMPLING if name in body} | _repetition(body)
    most = _whole("max_tokens", body.get("max_tokens", _OPENAI_MAX_TOKENS), 0)
    fields["max_tokens"] = most
    if "logprobs" in body:
        fields["logprobs"] = max(1, _whole("logprobs", body["logprobs"], 0))
    for number, prompt in enumerate(prompts):
        for choice in range(count):
            index = number * count + choice
            asked = fields | {"prompt": prompt} | _common(job, body, index)
            yield Call(index, asked, echo=bool(body.get("echo")), empty=most == 0)


def _common(job: Generation, body: Fields, index: int) -> Fields:
    """What every call has: a seed above all, so that whoever repeats it makes the same text."""
    seed = body.get("seed")
    if seed is None:
        seed = int.from_bytes(hashlib.blake2b(job.run_id.encode(), digest_size=4).digest())
    if not isinstance(seed, int):
        raise UpstreamRejected("must be a whole number", param="seed")
    return {"seed": (seed + index) % 0xFFFFFFFF, "stream": True, "return_progress": True}


def _chat_fields(body: Fields, names: list[str]) -> Fields:
    fields = {name: body[name] for name in names if name in body} | _repetition(body)
    fields["messages"] = [_message(message) for message in body["messages"]]
    if "tools" in fields:
        _choose_tools(fields)
    return fields


def _repetition(body: Fields) -> Fields:
    """vLLM's name for what llama.cpp calls `repeat_penalty`."""
    found = body.get("repetition_penalty")
    return {} if found is None else {"repeat_penalty": found}


def _message(message: Any) -> Any:
    """A message as templates know it: few know the role `developer`."""
    if not isinstance(message, dict):
        raise UpstreamRejected("every message must be an object", param="messages")
    return message | {"role": "system"} if message.get("role") == "developer" else message


def _choose_tools(fields: Fields) -> None:
    """Say a choice of tools in the library's words: fewer tools, and one of three modes."""
    choice, tools = fields.get("tool_choice"), fields["tools"]
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UpstreamRejected("must be a list of objects", param="tools")
    if any(tool.get("type") != "function" for tool in tools):
        raise UpstreamRejected("only functions are known here", param="tools")
    if not tools:
        del fields["tools"]
        fields.pop("tool_choice", None)
    elif isinstance(choice, dict):
        allowed = choice.get("allowed_tools")
        named = allowed.get("tools", []) if isinstance(allowed, dict) else [choice]
        names = {_name_of(tool) for tool in named}
        fields["tools"] = [tool for tool in tools if _name_of(tool) in names]
        mode = allowed.get("mode", "auto") if isinstance(allowed, dict) else "required"
        fields["tool_choice"] = mode
        if not fields["tools"]:
            raise UpstreamRejected("it names no tool of the request", param="tool_choice")


def _name_of(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _check_chat(body: Fields) -> None:
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise UpstreamRejected("must be a list with at least one message", param="messages")
    for name in ("functions", "function_call"):
        if name in body:
            raise UpstreamRejected("is not known here: use tools", param=name)
    if "audio" in body.get("modalities", ()):
        raise UpstreamRejected("this model makes text only", param="modalities")
    _refuse_grammar(body)
    for name in ("response_format", "tools", "chat_template_kwargs", "messages"):
        _check_schemas(name, body.get(name))
    if "top_logprobs" in body and not body.get("logprobs"):
        raise UpstreamRejected("wants logprobs", param="top_logprobs")


def _check_completion(body: Fields, count: int) -> None:
    _refuse_grammar(body)
    if body.get("suffix"):
        raise UpstreamRejected("this model only goes on with a text", param="suffix")
    if body.get("best_of", count) != count:
        raise UpstreamRejected("must be the same as n here", param="best_of")
    if body.get("echo") and "logprobs" in body:
        raise UpstreamRejected("with logprobs, the prompt's own are not known here", param="echo")


def _refuse_grammar(body: Fields) -> None:
    for name in ("grammar", "json_schema"):
        if name in body:
            raise UpstreamRejected("is not taken from clients: use response_format", param=name)


def _check_schemas(name: str, value: Any) -> None:
    """Refuse what llama.cpp's recursion, or its time, has no bound for.

    A grammar of deep groups ends the process; one of 3000 optional characters takes minutes, on the
    thread that all runs share.
    """
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise UpstreamRejected(f"is nested more than {_DEEPEST} levels deep", param=name)
        if any(_has_steep_pattern(inner) for inner in level):
            raise UpstreamRejected("has a pattern that is too long or too complex", param=name)
        level = [inner for outer in level for inner in _inside(outer)]


def _has_steep_pattern(value: Any) -> bool:
    pattern = value.get("pattern") if isinstance(value, dict) else None
    if not isinstance(pattern, str):
        return False
    return len(pattern) > _LONGEST_PATTERN or sum(map(pattern.count, "(?*+{|")) > _DEEPEST


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _prompts(body: Fields) -> list[Any]:
    """The prompts, each a text or a list of tokens."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise UpstreamRejected("must be a text or tokens, one or a list", param="prompt")
    if all(isinstance(token, int) for token in prompt):
        return [prompt]
    if any(isinstance(token, int) or not isinstance(token, str | list) for token in prompt):
        raise UpstreamRejected("must be all texts, or all lists of tokens", param="prompt")
    return prompt


def _choices(body: Mapping[str, Any]) -> int:
    return _whole("n", body.get("n", 1), 1, MOST_CHOICES)


def _whole(name: str, value: Any, least: int, most: int = 1 << 31) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < most + 1:
        raise UpstreamRejected(f"must be a whole number from {least} to {most}", param=name)
    return min(value, (1 << 31) - 1)
