"""A trace in parts, so that one that was stopped continues. The trace has the same bytes as one written at once.

Parts lie beside the trace in `.NAME.parts` until it is whole: `work.json` says of what they are parts, and each part is
a trace of consecutive texts.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.errors import RunDirectoryError
from moe_ray.files import StoredRecord, read_bytes, write_text_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation.records import TraceManifest, read_trace
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import TextTrace, text_at, write_trace

TEXTS_PER_PART = 32
WORK_FILE = "work.json"


class TraceWork(StoredRecord):
    """What parts are parts of."""

    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableTrace:
    """Texts to trace. `trace_texts` is called with texts in a row, a multiple of `batch_size` of them or the rest.

    `piece_of` gives the letters of a token id, see `write_trace`.
    """

    out: Path
    manifest: TraceManifest
    texts: Sequence[EncodedText]
    batch_size: int
    with_tokens: bool
    piece_of: Callable[[int], str | None] | None = None
    trace_texts: Callable[[Sequence[EncodedText]], Iterator[TextTrace]]

    def write(self, on_text: Callable[[], object]) -> TraceManifest:
        """Write the trace, and return its manifest. Parts of an earlier start are not traced again.

        Parts of another model, other texts or other settings are removed.
        """
        size = -(-TEXTS_PER_PART // self.batch_size) * self.batch_size
        groups = [self.texts[start : start + size] for start in range(0, len(self.texts), size)]
        if len(groups) == 1:
            return self._write(self.out, _reporting(self.trace_texts(self.texts), on_text))
        folder = self.out.with_name(f".{self.out.name}.parts")
        self._begin(folder)
        parts = [folder / f"{number:05}" for number in range(len(groups))]
        # The trace itself is begun when all parts are there: a kill before that leaves nothing else behind.
        for part, group in zip(parts, groups, strict=True):
            self._write_part(part, group, on_text)
        written = self._write(self.out, _joined(parts))
        shutil.rmtree(folder, ignore_errors=True)
        return written

    def _write(self, directory: Path, texts: Iterator[TextTrace]) -> TraceManifest:
        return write_trace(directory, self.manifest, texts, with_tokens=self.with_tokens, piece_of=self.piece_of)

    def _begin(self, folder: Path) -> None:
        texts = [[one.source.text_id, one.source.label, one.token_ids, one.counted] for one in self.texts]
        made_by = [self.manifest.moe_ray_version, self.manifest.comparable, self.batch_size]
        work = TraceWork(fingerprint=fingerprint([*made_by, texts]))
        content = work.model_dump_json() + "\n"
        try:
            is_same = read_bytes(folder / WORK_FILE) == content.encode()
        except OSError:
            is_same = False
        if not is_same:
            shutil.rmtree(folder, ignore_errors=True)
            write_text_atomically(folder / WORK_FILE, content)

    def _write_part(self, part: Path, group: Sequence[EncodedText], on_text: Callable[[], object]) -> None:
        if not _is_whole(part):
            self._write(part, _reporting(self.trace_texts(group), on_text))
            return
        for _ in group:
            on_text()


def _is_whole(part: Path) -> bool:
    """Whether a part is there, neither truncated nor damaged."""
    try:
        read_trace(part)
    except RunDirectoryError:
        return False
    return True


def _joined(parts: Sequence[Path]) -> Iterator[TextTrace]:
    for part in parts:
        trace = read_trace(part, with_tokens=True)
        yield from (text_at(trace, at) for at in range(len(trace.text_ids)))


def _reporting(texts: Iterator[TextTrace], on_text: Callable[[], object]) -> Iterator[TextTrace]:
    for text in texts:
        yield text
        on_text()
