"""Text of one row, token by token: whole characters alone, and nothing that may become a stop string."""

import re

from moe_ray.characters import REPLACEMENT
from moe_ray.engines.streams import StopGuard
from moe_ray.engines.transformers.generation import DrawnRow
from moe_ray.prompts.reasoning import ReasoningSplitter
from moe_ray.prompts.trace_stream import StreamPiece, TraceStream

# A token that stands for one byte. Decoders join a run of them as a whole: a byte that fits nothing spoils them all.
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


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
