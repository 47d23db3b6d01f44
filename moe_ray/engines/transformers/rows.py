"""One row of a batch: its request, its draws, its tokens and their text. Shapes: B rows, V vocabulary."""

# ruff: noqa: N803, N806 - capital suffixes name the axes of a tensor

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from moe_ray.characters import REPLACEMENT
from moe_ray.engines.base import FinishReason, GenerateRequest, TokenLogprob, stop_position
from moe_ray.engines.streams import StopGuard
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.prompts.reasoning import ReasoningSplitter
from moe_ray.prompts.trace_stream import StreamPiece, TraceStream

STOP_TAIL_TOKENS = 8
NO_TOKEN = -1
# A token that stands for one byte. Decoders join a run of such tokens: one byte that fits nothing spoils the whole run.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRow:
    """One row to decode: its prompt's tokens and what was asked.

    `prompt_pieces` are the texts of the prompt's tokens where the request asks for an echo, else empty.
    """

    index: int
    token_ids: tuple[int, ...]
    num_truncated: int
    request: GenerateRequest
    opens_trace: bool = False
    prompt_pieces: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class DrawnRow:
    """A row's answer, as it grows. `token_ids` holds no end token; `finish_reason` is None until the row is done.

    `logprobs` and `prompt_logprobs` are those of `Generation`. Until the prompt is scored, the latter are the None of
    its first token alone.
    """

    row: DecodeRow
    tokenizer: Any
    end_token_ids: frozenset[int]
    special_token_ids: frozenset[int]
    mark_token_ids: frozenset[int]
    uniforms: list[float]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    time_to_first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def uniform(self) -> float:
        """The uniform number of the next draw; 0 where nothing is drawn at random."""
        return self.uniforms[len(self.token_ids)] if self.uniforms else 0.0

    def take(self, token: int, elapsed_s: float, logprob: TokenLogprob | None = None) -> None:
        """Add a token that was there `elapsed_s` after the batch began, with its log-probability if asked for."""
        self.total_s = elapsed_s
        if not self.token_ids:
            self.time_to_first_token_s = elapsed_s
        if token == NO_TOKEN:
            self.token_ids, self.logprobs, self.finish_reason = [], [], "error"
            return
        if logprob is not None and (self.row.request.echo or token not in self.end_token_ids):
            self.logprobs.append(logprob)
        if token in self.end_token_ids:
            self._finish("stop")
            return
        self.token_ids.append(token)
        if self._has_stop():
            self._finish("stop")
        elif len(self.token_ids) == self.row.request.max_new_tokens:
            self._finish("length")

    def _finish(self, reason: FinishReason) -> None:
        text = self.decoded(self.token_ids)
        self.text = text[: stop_position(text, self.row.request.prompt.stop)]
        self.finish_reason = reason

    def _has_stop(self) -> bool:
        """Decode what a new stop string can lie in (each token spells a byte or more), and all only if it is there."""
        stops = self.row.request.prompt.stop
        if not stops:
            return False
        num_tokens = max(len(stop.encode()) for stop in stops) + STOP_TAIL_TOKENS
        if stop_position(self.decoded(self.token_ids[-num_tokens:]), stops) is None:
            return False
        return stop_position(self.decoded(self.token_ids), stops) is not None

    def decoded(self, token_ids: Sequence[int]) -> str:
        """Return the text of `token_ids` without special tokens, except those that mark a reasoning trace."""
        shown = token_ids
        has_marks = not self.mark_token_ids.isdisjoint(token_ids)
        if has_marks:
            hidden = self.special_token_ids - self.mark_token_ids
            shown = [token for token in token_ids if token not in hidden]
        text: str = self.tokenizer.decode(shown, skip_special_tokens=not has_marks, clean_up_tokenization_spaces=False)
        return text


def undrawn(row: DecodeRow, loaded: LoadedModel) -> DrawnRow:
    """Begin a row. A stop string that is one token of its own (which decoding may leave out) ends it as that token."""
    request = row.request
    own_tokens = loaded.tokenizer.get_added_vocab()
    return DrawnRow(
        row=row,
        tokenizer=loaded.tokenizer,
        end_token_ids=loaded.eos_token_ids | {own_tokens[stop] for stop in request.prompt.stop if stop in own_tokens},
        special_token_ids=loaded.special_token_ids,
        mark_token_ids=loaded.mark_token_ids,
        uniforms=uniforms(request.seed, request.max_new_tokens) if request.temperature > 0 else [],
        prompt_logprobs=(None,) if request.echo and request.num_logprobs is not None else (),
    )


def next_tokens(logits_BV: torch.Tensor, live: Sequence[DrawnRow]) -> list[int]:
    """Choose each row's next token, by its own temperature and seed."""
    requests = [row.row.request for row in live]
    return choose_tokens(
        logits_BV,
        [request.temperature for request in requests],
        [request.top_p for request in requests],
        [row.uniform for row in live],
    )


def uniforms(seed: int, num: int) -> list[float]:
    """Return `num` uniform numbers in [0, 1) that follow from `seed` alone, on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn: list[float] = torch.rand(num, generator=generator, dtype=torch.float64).tolist()
    return drawn


def choose_tokens(
    logits_BV: torch.Tensor, temperatures: Sequence[float], top_ps: Sequence[float], uniforms_B: Sequence[float]
) -> list[int]:
    """Return one token id for each row of float32 `logits_BV`: the likeliest at temperature 0, else a draw.

    A draw inverts the cumulative distribution at the row's uniform number, so that a row's text follows from
    its own seed and does not depend on the rows beside it. A row whose logits are not numbers gets `NO_TOKEN`.
    """
    best_B, likeliest_B = logits_BV.max(dim=-1)
    tokens: list[int] = torch.where(best_B.isfinite(), likeliest_B, NO_TOKEN).tolist()
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0 and tokens[row] != NO_TOKEN]
    if drawn:
        columns = [[values[row] for row in drawn] for values in (temperatures, top_ps, uniforms_B)]
        settings_B1 = torch.tensor(columns, dtype=torch.float64, device=logits_BV.device).unsqueeze(-1)
        for row, token in zip(drawn, _draw(logits_BV[drawn], *settings_B1).tolist(), strict=True):
            tokens[row] = token
    return tokens


def _draw(
    logits_BV: torch.Tensor, temperatures_B1: torch.Tensor, top_ps_B1: torch.Tensor, uniforms_B1: torch.Tensor
) -> torch.Tensor:
    """Draw from the smallest sets of likeliest tokens whose probabilities reach `top_ps_B1`; return ids, (B,)."""
    probabilities_BV = (logits_BV.double() / temperatures_B1).softmax(dim=-1)
    sorted_BV, order_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    cumulative_BV = sorted_BV.cumsum(dim=-1)
    last_B1 = (cumulative_BV - sorted_BV < top_ps_B1).sum(dim=-1, keepdim=True) - 1
    thresholds_B1 = uniforms_B1 * cumulative_BV.gather(-1, last_B1)
    places_B1 = (cumulative_BV <= thresholds_B1).sum(dim=-1, keepdim=True).minimum(last_B1)
    return order_BV.gather(-1, places_B1).squeeze(-1)


class RowText:
    """Turns the tokens of one row into pieces of its answer and its reasoning. Each token is decoded a few times only.

    The joined pieces equal the row's final text, cut at its stop string and split as the engine splits it.
    """

    def __init__(self, row: DrawnRow, splitter: ReasoningSplitter) -> None:
        self._row = row
        self._splitter = splitter
        self._trace = TraceStream(splitter, opened=row.row.opens_trace)
        self._guard = StopGuard(row.row.request.prompt.stop)
        self._context = self._read = 0

    def grown(self) -> StreamPiece:
        """Return what the tokens since the last call add for certain. The row has not ended."""
        certain = self._guard.feed(self._decode_new())
        return self._trace.feed(certain) if certain else StreamPiece()

    def finished(self) -> StreamPiece:
        """Return the rest of a row that has ended."""
        return self._trace.finish(self._splitter.split(self._row.text, opened=self._row.row.opens_trace))

    def _decode_new(self) -> str:
        """Decode the new tokens after those before them: some decoders drop the space in front of the first."""
        tokens = self._row.token_ids
        if not tokens or self._read == len(tokens) or self._is_byte(tokens[-1]):
            return ""
        before = self._row.decoded(tokens[self._context : self._read])
        after = self._row.decoded(tokens[self._context :])
        if after.endswith(REPLACEMENT) or not after.startswith(before):
            return ""
        if self._row.decoded(tokens[self._read :]):
            self._context = self._read
        self._read = len(tokens)
        return after[len(before) :]

    def _is_byte(self, token: int) -> bool:
        spelled = self._row.tokenizer.convert_ids_to_tokens(token)
        return isinstance(spelled, str) and _BYTE.fullmatch(spelled) is not None
