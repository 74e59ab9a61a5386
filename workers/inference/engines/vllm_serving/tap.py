"""Stands between vLLM's serving layer and its engine, for one streamed run."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any
from zlib import crc32

from schemas.errors import UpstreamError
from workers.inference.engines.vllm_serving.pieces import Piece
from workers.inference.engines.vllm_serving.sequence import Sequence, needs_seed

_numbers = itertools.count()


class Tap:
    """An engine client that notes what the engine makes, and first repeats what was made before.

    The serving layer sees one undisturbed stream, so parsers, logprobs and usage come out as if
    nothing had happened; the run only passes over the chunks that were sent.
    `between` is awaited whenever the serving layer has turned all that it got into chunks.
    """

    def __init__(
        self,
        client: Any,
        run_id: str,
        captured: Mapping[int, list[Piece]],
        between: Callable[[], Awaitable[None]],
    ) -> None:
        self.made: list[Piece] = []
        self.sequences = 0
        self._client = client
        self._run_id = run_id
        self._captured = captured
        self._between = between
        self._prompts = itertools.count()
        self._asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(
        self, prompt: Any, sampling_params: Any, request_id: str, **more: Any
    ) -> AsyncIterator[Any]:
        """Generate as the engine does. Called once for each of a request's prompts."""
        number = next(self._prompts)
        self.sequences += sampling_params.n
        if needs_seed(sampling_params):
            sampling_params.seed = crc32(self._run_id.encode())

        def ask(prompt: Any, params: Any) -> Any:
            name = f"{request_id}-{next(_numbers)}"
            self._asked.append(name)
            return self._client.generate(prompt, params, name, **more)

        if number and self._captured and sampling_params.logprobs is not None:
            # A prompt's tokens may be noted before their chunk: their probabilities are not known.
            raise UpstreamError("this answer can't be continued: logprobs of several prompts")
        pieces = self._captured.get(number)
        if not pieces:
            return self._pass_on(number, ask(prompt, sampling_params))
        return self._continue(number, pieces, prompt, sampling_params, ask)

    async def abort(self) -> None:
        """Have the engine let go of all that it was asked for; what has ended is no matter."""
        if self._asked and not self._client.errored:
            await self._client.abort(self._asked)

    async def _pass_on(self, number: int, outputs: Any) -> AsyncIterator[Any]:
        async with aclosing(outputs):
            async for output in outputs:
                self._note(number, output)
                yield output
                await self._between()

    async def _continue(
        self, number: int, pieces: list[Piece], prompt: Any, params: Any, ask: Any
    ) -> AsyncIterator[Any]:
        from vllm.outputs import RequestOutput  # noqa: PLC0415
        from vllm.utils.async_utils import merge_async_iterators  # noqa: PLC0415

        ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
        if ids is None:
            raise UpstreamError("this answer can't be continued: its prompt is not of tokens")
        ids = list(ids)
        tokenizer = self._client.renderer.tokenizer
        sequences = [Sequence(index, ids, params, tokenizer) for index in range(params.n)]

        def to_whole(output: Any) -> Any:
            return RequestOutput(
                request_id="",
                prompt=None,
                prompt_token_ids=ids,
                prompt_logprobs=None if params.prompt_logprobs is None else [None] * len(ids),
                outputs=[output],
                finished=False,
            )

        for piece in pieces:
            yield to_whole(sequences[piece.index].replay(piece, tokenizer))
            await self._between()
        rest = [sequence.go_on(prompt, ask) for sequence in sequences if not sequence.finished]
        if not rest:
            return
        async with aclosing(merge_async_iterators(*rest)) as outputs:
            async for _, output in outputs:
                output.prompt, output.prompt_token_ids = None, ids
                self._note(number, output)
                yield output
                await self._between()

    def _note(self, number: int, output: Any) -> None:
        for made in output.outputs:
            self.made.append(
                Piece(
                    number,
                    made.index,
                    list(made.token_ids),
                    made.finish_reason,
                    made.stop_reason,
                )
            )
