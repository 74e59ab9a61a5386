"""One sequence that an earlier attempt began, and how it goes on to the token."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from schemas.errors import UpstreamError
from workers.inference.engines.vllm_serving.pieces import Piece

Ask = Callable[[Any, Any], Any]  # a prompt and its parameters: vLLM's generator of outputs

_CLOSE = 1e-5  # below this temperature vLLM takes the likeliest token


class _Diverged(Exception):
    """Generating again gave other tokens."""


class Sequence:
    """A sequence's tokens so far, and its text as vLLM's own detokenizer makes it.

    The text is made here and not by the engine: what a stop string holds back, and half a
    character, reach over the place where the attempts meet.
    """

    def __init__(self, index: int, prompt_ids: list[int], params: Any, tokenizer: Any) -> None:
        self.index = index
        self.finished = False
        self._prompt_ids = prompt_ids
        self._params = params
        self._text = _open_detokenizer(tokenizer, prompt_ids, params)

    def replay(self, piece: Piece, tokenizer: Any) -> Any:
        """Take up what an earlier attempt made; returns it as the engine's output once more."""
        stopped = piece.finish_reason == "stop"
        # A stop string was found in the text; a stop token ends it without being said.
        self._text.update(list(piece.token_ids), stopped and not isinstance(piece.stop_reason, str))
        self.finished = piece.finish_reason is not None
        return self._to_output(
            list(piece.token_ids),
            _said_before(piece, tokenizer) if self._params.logprobs is not None else None,
            piece.finish_reason,
            piece.stop_reason,
        )

    async def go_on(self, prompt: Any, ask: Ask) -> AsyncGenerator[Any, None]:
        """Generate what is missing: a request output at a time, with this sequence's output."""
        if must_repeat(self._params):
            try:
                async with aclosing(self._repeat(prompt, ask)) as outputs:
                    async for output in outputs:
                        yield output
                return
            except _Diverged:
                if self._params.structured_outputs is not None:
                    raise UpstreamError(
                        "this answer can't be continued: its grammar has to begin anew, and the "
                        "model did not repeat itself"
                    ) from None
        async with aclosing(self._append(prompt, ask)) as outputs:
            async for output in outputs:
                yield output

    async def _append(self, prompt: Any, ask: Ask) -> AsyncGenerator[Any, None]:
        """Read the tokens so far as a part of the prompt."""
        done = list(self._text.output_token_ids)
        params = self._to_engine_params()
        params.max_tokens = None if params.max_tokens is None else params.max_tokens - len(done)
        params.min_tokens = max(0, params.min_tokens - len(done))
        longer = {**prompt, "prompt_token_ids": [*self._prompt_ids, *done]}
        async with aclosing(ask(longer, params)) as outputs:
            async for output in outputs:
                yield self._take(output, 0)
                if self.finished:
                    return

    async def _repeat(self, prompt: Any, ask: Ask) -> AsyncGenerator[Any, None]:
        """Generate all of it again, pass over the tokens so far if they are the same."""
        done = list(self._text.output_token_ids)
        position = 0
        async with aclosing(ask(prompt, self._to_engine_params())) as outputs:
            async for output in outputs:
                ids = output.outputs[0].token_ids
                known = done[position : position + len(ids)]
                ended = output.outputs[0].finish_reason is not None
                if list(ids[: len(known)]) != known or (ended and position + len(ids) < len(done)):
                    raise _Diverged
                position += len(known)
                if len(ids) > len(known) or ended:
                    yield self._take(output, len(known))
                    if self.finished:
                        return

    def _to_engine_params(self) -> Any:
        """The parameters of this sequence alone; stop strings are looked for here."""
        params = self._params.clone()
        params.n = 1
        params.stop = []
        params.output_text_buffer_length = 0
        if params.seed is not None and self._params.n > 1:
            params.seed += self.index  # as vLLM seeds the sequences of one request
        return params

    def _take(self, output: Any, skip: int) -> Any:
        """Make an output of the engine this sequence's own, without the first tokens."""
        made = output.outputs[0]
        before = self._text.num_output_tokens()
        reason, stop_reason = made.finish_reason, made.stop_reason
        stop = self._text.update(list(made.token_ids[skip:]), reason == "stop")
        if stop is not None:
            reason, stop_reason = "stop", stop
        ids = self._text.output_token_ids[before:]
        self.finished = reason is not None
        logprobs = None if made.logprobs is None else list(made.logprobs)[skip : skip + len(ids)]
        output.outputs = [self._to_output(list(ids), logprobs, reason, stop_reason)]
        output.finished = self.finished
        return output

    def _to_output(self, ids: list[int], logprobs: Any, reason: Any, stop_reason: Any) -> Any:
        from vllm.outputs import CompletionOutput  # noqa: PLC0415

        return CompletionOutput(
            index=self.index,
            text=self._text.get_next_output_text(reason is not None, True),
            token_ids=ids,
            cumulative_logprob=None,
            logprobs=logprobs,
            finish_reason=reason,
            stop_reason=stop_reason,
        )


def must_repeat(params: Any) -> bool:
    """Whether tokens depend on more than those before them, so that a prompt can't stand for them.

    A grammar's state, a seed's stream of random numbers, penalties on what was said; and the names
    of tokens that are half a character, where log probabilities are asked for.
    """
    return bool(
        params.structured_outputs is not None
        or (params.seed is not None and params.temperature > _CLOSE)
        or params.presence_penalty
        or params.frequency_penalty
        or params.bad_words
        or params.logprobs is not None
        or getattr(params, "thinking_token_budget", None) is not None
    )


def needs_seed(params: Any) -> bool:
    """Whether it could only be continued with a seed, and has none."""
    return bool(params.seed is None and params.temperature > _CLOSE and must_repeat(params))


def _open_detokenizer(tokenizer: Any, prompt_ids: list[int], params: Any) -> Any:
    from vllm.v1.engine import EngineCoreRequest  # noqa: PLC0415
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer  # noqa: PLC0415

    request = EngineCoreRequest(
        request_id="",
        prompt_token_ids=prompt_ids,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    return IncrementalDetokenizer.from_new_request(tokenizer, request)


def _said_before(piece: Piece, tokenizer: Any) -> Any:
    """Log probabilities for tokens whose chunks are passed over: only the texts' lengths count."""
    from vllm.logprobs import Logprob  # noqa: PLC0415

    return [
        {token: Logprob(0.0, rank=1, decoded_token=tokenizer.decode([token]))}
        for token in piece.token_ids
    ]
