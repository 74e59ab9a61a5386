"""What the simulated model answers: worked out whole from the request and a seed.

So a stream and a body say the same, and a second attempt says what the first one did.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from schemas.errors import UpstreamRejected
from workers.inference.engines.simulation.cues import Cues, read_cues
from workers.inference.engines.simulation.instances import UnfillableError, fill
from workers.inference.engines.simulation.sentences import compose, count_tokens, tokenise, word

_MESSAGE_TOKENS = 4  # what a message costs beside its text, as with OpenAI's models
_QUOTE_LIMIT = 2000
_CHOICES_LIMIT = 128

Fields = dict[str, msgspec.Raw]


@dataclass(slots=True)
class Call:
    """A tool call; `arguments` in tokens. A custom tool takes a text instead of JSON."""

    id: str
    name: str
    arguments: list[str]
    custom: bool = False


@dataclass(slots=True)
class Choice:
    """One answer, in tokens."""

    index: int
    tokens: list[str]
    finish_reason: str = "stop"
    calls: list[Call] = field(default_factory=list)
    seed: int = 0  # of the log probabilities
    prompt: list[str] = field(default_factory=list)  # echoed by a completion, part of `tokens`

    def count(self) -> int:
        """How many tokens it is to generate; a tool's name counts as one."""
        calls = sum(1 + len(call.arguments) for call in self.calls)
        return len(self.tokens) - len(self.prompt) + calls


@dataclass(slots=True)
class Answer:
    """All choices, the prompt's tokens, and how a test wants them delivered."""

    choices: list[Choice]
    prompt_tokens: int
    cues: Cues
    logprobs: int | None = None  # how many alternatives to tell with each token
    chat: bool = True

    def usage(self) -> dict[str, Any]:
        """Usage as OpenAI tells it."""
        completion = sum(choice.count() for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Named(msgspec.Struct, frozen=True):
    name: str = ""


class _PastCall(msgspec.Struct):
    id: str = ""
    function: _Named = _Named()
    custom: _Named = _Named()


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[_PastCall] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.text)
        return self.content or ""


class _Tool(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | bool | None = None


class _Offer(msgspec.Struct):
    type: str = "function"
    function: _Tool | None = None
    custom: _Tool | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    json_schema: dict[str, Any] | None = None


class _ChatRequest(msgspec.Struct):
    messages: list[_Message]
    seed: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[_Offer] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None


class _CompletionRequest(msgspec.Struct):
    prompt: str | list[str | int | list[int]] = ""
    seed: int | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    logprobs: int | None = None
    echo: bool | None = None


_decode_chat = msgspec.json.Decoder(_ChatRequest).decode
_decode_completion = msgspec.json.Decoder(_CompletionRequest).decode
_encode = msgspec.json.Encoder().encode


def answer_chat(fields: Fields, seed: int, tokens: int | None, obeys: bool) -> Answer:
    """Answer a chat: `seed` and `tokens` are the provider's options; `obeys` the cues or not."""
    try:
        request = _decode_chat(_encode(fields))
    except msgspec.ValidationError as error:
        raise to_rejection(error) from None
    if not request.messages:
        raise UpstreamRejected("there is no message", param="messages")
    asked = _last_user_text(request.messages)
    cues = read_cues(asked) if obeys else Cues()
    root = _seed_of(seed, request.seed, fields["messages"])
    most = request.max_completion_tokens or request.max_tokens
    choices = []
    for index in range(_count(request.n)):
        random = _random(root + index)
        choice = Choice(index, [], seed=root + index)
        choice.calls = _calls(request, cues, asked, random)
        if choice.calls:
            choice.finish_reason = "tool_calls"
        else:
            length = tokens if cues.tokens is None else cues.tokens
            choice.tokens = _content(request, random, length)
        _limit(choice, most, request.stop)
        choices.append(choice)
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return Answer(choices, _count_prompt(request), cues, logprobs)


def answer_completion(fields: Fields, seed: int, tokens: int | None, obeys: bool) -> Answer:
    """Answer a completion, each prompt with as many choices as asked for."""
    try:
        request = _decode_completion(_encode(fields))
    except msgspec.ValidationError as error:
        raise to_rejection(error) from None
    prompts = _prompts(request.prompt)
    cues = read_cues(prompts[-1][0]) if obeys else Cues()
    root = _seed_of(seed, request.seed, fields.get("prompt", msgspec.Raw(b'""')))
    most = 16 if request.max_tokens is None else request.max_tokens
    choices: list[Choice] = []
    for number, (prompt, _) in enumerate(prompts):
        for _ in range(_count(request.n)):
            index = len(choices)
            choice = Choice(index, [], seed=root + index)
            length = tokens if cues.tokens is None else cues.tokens
            choice.tokens = compose(_random(root + index), length)
            if prompt and choice.tokens:
                choice.tokens[0] = " " + choice.tokens[0]
            _limit(choice, most, request.stop)
            if request.echo:
                choice.prompt = tokenise(prompts[number][0])
                choice.tokens = choice.prompt + choice.tokens
            choices.append(choice)
    return Answer(choices, sum(count for _, count in prompts), cues, request.logprobs, chat=False)


def to_rejection(error: msgspec.ValidationError) -> UpstreamRejected:
    """Say which field of the request is wrong: `messages[2].content`."""
    message, _, path = str(error).partition(" - at `$")
    return UpstreamRejected(message, param=path.rstrip("`").lstrip(".") or None)


def token_logprobs(choice: Choice, alternatives: int) -> Iterator[tuple[str, float, list[Any]]]:
    """Make up each token's log probability, and (token, log probability) of the likeliest ones."""
    random = _random(choice.seed ^ 0x10)
    for token in choice.tokens:
        chance = random.uniform(0.4, 0.95)
        rest = 1 - chance
        likely = [(token, _log(chance))]
        for _ in range(alternatives - 1):
            share = rest * random.uniform(0.3, 0.7)
            rest -= share
            likely.append((" " + word(random), _log(share)))
        yield token, _log(chance), likely[:alternatives]


def _log(chance: float) -> float:
    return round(math.log(max(chance, 1e-9)), 6)


def _random(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - to be the same each time is its purpose


def _count(n: int | None) -> int:
    if n is None:
        return 1
    if not 1 <= n <= _CHOICES_LIMIT:
        raise UpstreamRejected(f"n must be from 1 to {_CHOICES_LIMIT}", param="n")
    return n


def _seed_of(seed: int, asked: int | None, prompt: msgspec.Raw) -> int:
    digest = hashlib.blake2b(bytes(prompt), digest_size=7)
    digest.update(f"{seed}/{asked}".encode())
    return int.from_bytes(digest.digest(), "big")


def _last_user_text(messages: list[_Message]) -> str:
    for message in reversed(messages):
        if message.role == "user":
            return message.text()
    return ""


def _count_prompt(request: _ChatRequest) -> int:
    texts = sum(count_tokens(message.text()) + _MESSAGE_TOKENS for message in request.messages)
    tools = count_tokens(_encode(request.tools).decode()) if request.tools else 0
    return texts + tools


def _prompts(prompt: str | list[str | int | list[int]]) -> list[tuple[str, int]]:
    """The prompts as texts, each with its number of tokens; token ids have no text here."""
    if isinstance(prompt, str):
        return [(prompt, count_tokens(prompt))]
    if not prompt:
        raise UpstreamRejected("there is no prompt", param="prompt")
    if all(isinstance(part, int) for part in prompt):
        return [("", len(prompt))]
    found = []
    for part in prompt:
        if isinstance(part, int):
            raise UpstreamRejected("a prompt is text or token ids, not both", param="prompt")
        found.append((part, count_tokens(part)) if isinstance(part, str) else ("", len(part)))
    return found


def _content(request: _ChatRequest, random: Random, length: int | None) -> list[str]:
    form = request.response_format
    if form is not None and form.type in ("json_schema", "json_object"):
        return tokenise(_encode(_instance(form, random)).decode())
    last = request.messages[-1]
    if last.role in ("tool", "function"):
        return tokenise(_quote_results(request.messages))
    return compose(random, length)


def _instance(form: _Format, random: Random) -> Any:
    if form.type == "json_object":
        return {"subject": word(random), "count": random.randint(1, 9), "certain": True}
    schema = (form.json_schema or {}).get("schema")
    if schema is None:
        raise UpstreamRejected("the schema is missing", param="response_format.json_schema.schema")
    return _fill(schema, random, "response_format.json_schema.schema")


def _fill(schema: object, random: Random, param: str) -> Any:
    try:
        return fill(schema, random)
    except UnfillableError as error:
        raise UpstreamRejected(str(error), param=param) from None


def _quote_results(messages: list[_Message]) -> str:
    names = {
        call.id: call.function.name or call.custom.name
        for message in messages
        for call in message.tool_calls or ()
    }
    results: list[str] = []
    for message in reversed(messages):
        if message.role not in ("tool", "function"):
            break
        name = names.get(message.tool_call_id or "") or "The tool"
        results.append(f"{name} answered: {message.text()[:_QUOTE_LIMIT]}")
    return "\n".join(reversed(results))


def _calls(request: _ChatRequest, cues: Cues, asked: str, random: Random) -> list[Call]:
    """The tool calls that the request leads to; none: the answer is text."""
    offered = _offered(request)
    choice = request.tool_choice
    if choice == "none":
        return []
    answered = request.messages[-1].role in ("tool", "function")
    wanted: list[tuple[str, str | None]] = []
    if isinstance(choice, dict) and choice.get("type") != "allowed_tools":
        name = _name_in(choice)
        if name not in offered:
            raise UpstreamRejected(f"there is no tool {name!r} to call", param="tool_choice")
        wanted = [(name, None)]
    elif cues.tools and _rounds(request.messages) < cues.rounds:
        wanted = list(cues.tools)
    elif not answered:
        wanted = [(name, None) for name in offered if name in asked]
    if not wanted and _is_required(choice) and offered:
        wanted = [(random.choice(list(offered)), None)]
    if request.parallel_tool_calls is False:
        wanted = wanted[:1]
    return [_call(name, arguments, offered, random) for name, arguments in wanted]


def _rounds(messages: list[_Message]) -> int:
    """How often tools were called since the user's last message."""
    rounds = 0
    for message in reversed(messages):
        if message.role == "user":
            break
        rounds += bool(message.tool_calls)
    return rounds


def _offered(request: _ChatRequest) -> dict[str, _Offer]:
    offered = {}
    for offer in request.tools or ():
        tool = offer.function or offer.custom
        if tool is not None:
            offered[tool.name] = offer
    choice = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools") or choice
        allowed = {_name_in(tool) for tool in inner.get("tools") or ()}
        offered = {name: offer for name, offer in offered.items() if name in allowed}
    return offered


def _is_required(choice: str | dict[str, Any] | None) -> bool:
    if isinstance(choice, dict):
        inner = choice.get("allowed_tools") or choice
        return bool(inner.get("mode") == "required")
    return choice == "required"


def _name_in(tool: dict[str, Any]) -> str:
    """The name in `{"type": "function", "function": {"name": …}}`, or in its flat form."""
    inner = tool.get("function") or tool.get("custom") or tool
    return str(inner.get("name", "")) if isinstance(inner, dict) else ""


def _call(name: str, arguments: str | None, offered: dict[str, _Offer], random: Random) -> Call:
    offer = offered.get(name)
    custom = offer is not None and offer.custom is not None
    if arguments is None and custom:
        arguments = "".join(compose(random, 8))
    elif arguments is None:
        schema = offer.function.parameters if offer and offer.function else None
        value = _fill(schema, random, "tools") if schema else {}
        arguments = _encode(value).decode()
    unique = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=24))
    return Call(f"call_{unique}", name, tokenise(arguments), custom)


def _limit(choice: Choice, most: int | None, stop: str | list[str] | None) -> None:
    """End a choice where the client wants it to end."""
    if most is not None and most < 0:
        raise UpstreamRejected("there can't be fewer than 0 tokens", param="max_tokens")
    if most is not None and choice.count() > most:
        choice.finish_reason = "length"
        del choice.tokens[most:]
        left = most
        for call in choice.calls:
            del call.arguments[max(0, left - 1) :]
            left -= 1 + len(call.arguments)
    stops = [stop] if isinstance(stop, str) else stop or []
    text = "".join(choice.tokens) if any(stops) else ""
    ends = [at for word in stops if word and (at := text.find(word)) >= 0]
    if ends:
        choice.finish_reason = "stop"
        _cut(choice.tokens, min(ends))


def _cut(tokens: list[str], length: int) -> None:
    """Keep the first `length` characters."""
    for number, token in enumerate(tokens):
        if length <= len(token):
            tokens[number] = token[:length]
            del tokens[number + (length > 0) :]
            return
        length -= len(token)
