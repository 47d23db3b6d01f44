"""Decoding that keeps running: rows are admitted between steps, and each token is handed out when it is drawn.

One thread decodes all rows. A step draws one token for each running row, reads the prompts of new rows, and joins
these to the others. Rows whose cache cannot be padded, or whose positions depend on the longest row of a batch, run in
a batch of their own. docs/decisions/0011-streams-have-their-own-loop.md says why the loop is our own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import torch

from moe_ray.engines.base import BatchLimits, Delta, Generation, TokenLogprob, failed_generation
from moe_ray.engines.streams import CLOSED, QueuedStream
from moe_ray.engines.transformers.batching import MemoryRule, RowSize, is_out_of_memory
from moe_ray.engines.transformers.generation import BatchState
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.engines.transformers.logprobs import score_prompts, token_logprobs
from moe_ray.engines.transformers.rows import DecodeRow, DrawnRow, RowText, next_tokens, undrawn
from moe_ray.errors import EngineLostError, first_line
from moe_ray.prompts.reasoning import ReasoningSplitter
from moe_ray.prompts.trace_stream import StreamPiece

# Prompt tokens, padding included, that one step reads at most (one prompt at least): running rows wait meanwhile.
STEP_PROMPT_TOKENS = 2048


class TurnLock:
    """Shares a model between threads that each take it again at once: with a plain lock one of them could starve."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiters: deque[object] = deque()

    def __enter__(self) -> None:
        turn = object()
        with self._changed:
            self._waiters.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiters[0] is turn)
            except BaseException:
                self._waiters.remove(turn)
                self._changed.notify_all()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._waiters.popleft()
            self._changed.notify_all()


@dataclass(slots=True, kw_only=True, eq=False)
class _Live:
    """One row that waits or runs. `decided` is the gate's decision from before a restart."""

    drawn: DrawnRow
    text: RowText
    stream: QueuedStream
    runs_alone: bool
    start_s: float
    most_rows: int = 1
    decided: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens that must be in the cache, or be read, to go on from here."""
        return (*self.drawn.row.token_ids, *self.drawn.token_ids)

    @property
    def size(self) -> RowSize:
        """The memory that the row may come to need."""
        row = self.drawn.row
        return RowSize(num_prompt_tokens=len(row.token_ids), num_new_tokens=row.request.max_new_tokens, num_logits=1)


@dataclass(slots=True, kw_only=True, eq=False)
class _Batch:
    """Rows that are decoded together. The state holds their cache."""

    state: BatchState
    rows: list[_Live]

    def keep(self, is_kept: Callable[[_Live], bool]) -> None:
        """Let go of the other rows, and of padding that only they needed."""
        kept = [index for index, row in enumerate(self.rows) if is_kept(row)]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if self.rows:
            self.state.keep(kept)
            if self.state.can_be_joined:
                self.state.trim()


class StreamingDecoder:
    """Decodes the rows that are submitted to it, together, in a thread that starts with the first of them.

    Args:
        limits: bound the rows that run at once and their cache; further rows wait, first come, first served.
        turn: held during each step, so that the model is free for others between steps.
        generation_of: makes the whole answer of a row that has ended, given how many rows ran beside it at most.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        limits: BatchLimits,
        rule: MemoryRule,
        splitter: ReasoningSplitter,
        turn: TurnLock,
        generation_of: Callable[[DrawnRow, int], Generation],
    ) -> None:
        self._loaded = loaded
        self._limits = limits
        self._rule = rule
        self._splitter = splitter
        self._turn = turn
        self._generation_of = generation_of
        self._changed = threading.Condition()
        self._waiting: deque[_Live] = deque()
        self._batches: list[_Batch] = []
        self._max_rows = limits.max_rows
        self._thread: threading.Thread | None = None
        self._lost: str | None = None

    def submit(self, row: DecodeRow) -> QueuedStream:
        """Queue `row`. Raises `EngineLostError` after `close`, and once the thread has ended with an error."""
        stream = QueuedStream(on_cancel=self._wake)
        drawn = undrawn(row, self._loaded)
        live = _Live(
            drawn=drawn,
            text=RowText(drawn, self._splitter),
            stream=stream,
            runs_alone=self._runs_alone(row),
            start_s=time.perf_counter(),
        )
        with self._changed:
            if self._lost is not None:
                raise EngineLostError(self._lost)
            self._waiting.append(live)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="streaming-decoder", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return stream

    def close(self) -> None:
        """End all streams with an error, and wait until the thread has ended."""
        with self._changed:
            self._lost = self._lost or CLOSED
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _runs_alone(self, row: DecodeRow) -> bool:
        longest = self._loaded.rope_switch_length
        return longest is not None and len(row.token_ids) + row.request.max_new_tokens > longest

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._wait_for_work():
                with self._turn:
                    self._step()
        except Exception as error:
            self._lost = f"the decoding thread has ended: {first_line(error)}"
            raise
        finally:
            self._end_all()

    def _wait_for_work(self) -> bool:
        """Wait until there is a row to decode; return False when the decoder is closed."""
        with self._changed:
            if not self._batches and not self._waiting:
                # Memory may have been freed since rows were restricted.
                self._max_rows = self._limits.max_rows
            self._changed.wait_for(lambda: self._lost is not None or self._waiting or self._batches)
            return self._lost is None

    def _end_all(self) -> None:
        with self._changed:
            left = [*self._waiting, *(row for batch in self._batches for row in batch.rows)]
            self._waiting.clear()
        self._batches = []
        for row in left:
            row.stream.finish(failed_generation(self._lost or CLOSED))

    def _step(self) -> None:
        for batch in self._batches:
            batch.keep(lambda row: not row.stream.has_ended)
        self._batches = [batch for batch in self._batches if batch.rows]
        running = list(self._batches)
        admitted = self._admitted()
        for batch in running:
            self._guarded([batch], lambda batch=batch: self._advance(batch))  # type: ignore[misc]
        for batch in admitted:
            self._guarded([batch], lambda batch=batch: self._begin(batch))  # type: ignore[misc]
        joinable = [one for one in self._batches if one.state.can_be_joined and not one.rows[0].runs_alone]
        for batch in joinable[1:]:
            self._batches.remove(batch)
            self._guarded([joinable[0], batch], lambda batch=batch: _join(joinable[0], batch))  # type: ignore[misc]

    def _admitted(self) -> list[_Batch]:
        """Take the rows from the queue that there is room for; return them as new batches."""
        sizes = [row.size for batch in self._batches for row in batch.rows]
        rows: list[_Live] = []
        with self._changed:
            while self._waiting:
                row = self._waiting[0]
                if not row.stream.has_ended:
                    widest = max(len(one.token_ids) for one in [*rows, row])
                    if rows and widest * (len(rows) + 1) > STEP_PROMPT_TOKENS:
                        break
                    if sizes and not self._fits([*sizes, row.size]):
                        break
                    rows.append(row)
                    sizes.append(row.size)
                self._waiting.popleft()
        together = [row for row in rows if not row.runs_alone and not row.decided]
        apart = [[row] for row in rows if row.runs_alone or row.decided]
        return [self._new_batch(group) for group in ([together] if together else []) + apart]

    def _fits(self, sizes: Sequence[RowSize]) -> bool:
        return len(sizes) <= self._max_rows and self._rule.batch_bytes(sizes) <= self._limits.cache_memory_bytes

    def _new_batch(self, rows: list[_Live]) -> _Batch:
        state = BatchState(self._loaded, [row.token_ids for row in rows])
        if rows[0].decided:
            state.decide(rows[0].decided)
        batch = _Batch(state=state, rows=rows)
        self._batches.append(batch)
        return batch

    def _begin(self, batch: _Batch) -> None:
        score_prompts(self._loaded, [row.drawn for row in batch.rows])
        self._advance(batch)

    def _advance(self, batch: _Batch) -> None:
        """Draw one token for each row, and let go of the rows that have ended."""
        num_rows = sum(len(one.rows) for one in self._batches)
        drawn = [row.drawn for row in batch.rows]
        logits = batch.state.forward()
        tokens = next_tokens(logits, drawn)
        logprobs = token_logprobs(self._loaded, logits, drawn, tokens)
        for row, token, logprob in zip(batch.rows, tokens, logprobs, strict=True):
            row.most_rows = max(row.most_rows, num_rows)
            self._take(row, token, logprob)
        if all(row.drawn.finish_reason is not None for row in batch.rows):
            self._batches.remove(batch)
            return
        batch.state.advance(tokens, range(len(tokens)))
        batch.keep(lambda row: row.drawn.finish_reason is None)

    def _take(self, row: _Live, token: int, logprob: TokenLogprob | None) -> None:
        """Add a drawn token, and hand out what it makes certain."""
        num_before = len(row.drawn.token_ids)
        row.drawn.take(token, time.perf_counter() - row.start_s, logprob)
        new = tuple(row.drawn.token_ids[num_before:])
        if row.drawn.finish_reason is None:
            piece = row.text.grown()
            row.stream.put(
                Delta(
                    text=piece.answer,
                    reasoning=piece.reasoning,
                    token_ids=new,
                    num_tokens=len(new),
                    logprobs=() if logprob is None else (logprob,),
                )
            )
            return
        result = self._generation_of(row.drawn, row.most_rows)
        piece = StreamPiece() if result.finish_reason == "error" else row.text.finished()
        row.stream.finish(result, text=piece.answer, reasoning=piece.reasoning, num_tokens=len(new))

    def _guarded(self, batches: list[_Batch], work: Callable[[], None]) -> None:
        """Run `work`; if it fails, restart the rows of `batches` in smaller batches.

        A row that fails by itself ends with the error.
        """
        failure: Exception | None = None
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a model's code raises anything; it becomes the rows' error
            # Its traceback is not kept: its frames hold the tensors that did not fit.
            failure = error.with_traceback(None)
        if failure is not None:
            self._restart(batches, failure)

    def _restart(self, batches: list[_Batch], failure: Exception) -> None:
        num_rows = sum(len(batch.rows) for batch in self._batches)
        rows = [row for batch in batches for row in batch.rows]
        for batch in batches:
            for index, row in enumerate(batch.rows):
                row.decided = batch.state.decided(index) or row.decided
        self._batches = [batch for batch in self._batches if batch not in batches]
        out_of_memory = is_out_of_memory(failure)
        if out_of_memory:
            torch.cuda.empty_cache()
            self._max_rows = max(1, num_rows // 2)
        elif len(rows) > 1:
            for row in rows:
                row.runs_alone = True
        if (num_rows if out_of_memory else len(rows)) <= 1:
            rows[0].stream.finish(self._failed(rows[0], failure, out_of_memory=out_of_memory))
            return
        with self._changed:
            self._waiting.extendleft(row for row in reversed(rows) if row.drawn.finish_reason is None)

    def _failed(self, row: _Live, failure: Exception, *, out_of_memory: bool) -> Generation:
        asked = row.drawn.row
        what = f"out of memory with one row of {len(asked.token_ids)} + {asked.request.max_new_tokens} tokens"
        reason = what if out_of_memory else f"the model failed on this prompt: {first_line(failure)}"
        return failed_generation(reason, num_prompt_tokens=len(asked.token_ids))


def _join(batch: _Batch, other: _Batch) -> None:
    batch.state.join(other.state)
    batch.rows += other.rows
