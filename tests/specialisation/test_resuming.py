"""A trace in parts: one that was stopped continues, and has the bytes of one that was not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.readers.units import UnitName, unit_of_tokens
from moe_ray.specialisation.records import MANIFEST_FILE, TraceManifest
from moe_ray.specialisation.resuming import TEXTS_PER_PART, ResumableTrace
from moe_ray.specialisation.texts import SourceText
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import TextTrace, write_trace
from tests.specialisation.planted import manifest

NUM_TEXTS = 3 * TEXTS_PER_PART - 5
LAYERS = manifest().layers


class StoppedError(Exception):
    """Stands for the end of the process."""


def encoded(num_texts: int = NUM_TEXTS) -> list[EncodedText]:
    return [
        EncodedText(
            source=SourceText(text_id=f"{at:05}", label="ab"[at % 2], text=""), token_ids=(at, at + 1, at + 2),
            counted=(True,) * 3, is_cut=False,
        )
        for at in range(num_texts)
    ]  # fmt: skip


def traced(text: EncodedText, layers: Sequence[TracedLayer] = LAYERS) -> TextTrace:
    experts = np.array([[token % 6, (token + 1 + token % 4) % 6] for token in text.token_ids], dtype=np.int16)
    name = UnitName(text.source.text_id, text.source.label)
    return unit_of_tokens(name, [experts for _ in layers], layers, text.token_ids)


@dataclass
class Tracer:
    """Traces texts, keeps which, and stops after some."""

    stop_after: int = 10**6
    seen: list[str] = field(default_factory=list)

    def __call__(self, texts: Sequence[EncodedText]) -> Iterator[TextTrace]:
        for text in texts:
            if len(self.seen) == self.stop_after:
                raise StoppedError
            self.seen.append(text.source.text_id)
            yield traced(text)


def written(
    out: Path, tracer: Tracer, *, texts: Sequence[EncodedText] | None = None, made: TraceManifest | None = None,
    batch_size: int = 1,
) -> list[int]:  # fmt: skip
    """Write or continue the trace; returns the number of texts that were reported."""
    done: list[int] = []
    trace = ResumableTrace(
        out=out, manifest=made or manifest(), texts=encoded() if texts is None else texts, batch_size=batch_size,
        with_tokens=True, trace_texts=tracer,
    )  # fmt: skip
    trace.write(lambda: done.append(1))
    return done


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The trace as it is written at once."""
    write_trace(tmp_path / "w" / "whole", manifest(), map(traced, encoded()), with_tokens=True)
    return content(tmp_path / "w" / "whole")


def test_a_trace_that_was_stopped_continues_to_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "t" / "out"
    for stop_after in (TEXTS_PER_PART + 3, TEXTS_PER_PART // 2):
        with pytest.raises(StoppedError):
            written(out, Tracer(stop_after))
        assert not out.exists()
    tracer = Tracer()
    assert len(written(out, tracer)) == NUM_TEXTS
    assert len(tracer.seen) == NUM_TEXTS - TEXTS_PER_PART
    assert content(out) == whole
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_damaged_part_is_traced_again(whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "t" / "out"
    with pytest.raises(StoppedError):
        written(out, Tracer(2 * TEXTS_PER_PART))
    parts = sorted((out.parent / ".out.parts").glob("*/layers.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-7])
    (parts[1].parent / MANIFEST_FILE).write_text("{")
    tracer = Tracer()
    written(out, tracer)
    assert len(tracer.seen) == NUM_TEXTS
    assert content(out) == whole


OTHERS: dict[str, dict[str, Any]] = {
    "texts": {"texts": encoded(NUM_TEXTS + 1)},
    "model": {"made": manifest().model_copy(update={"model_fingerprint": "1"})},
    "version": {"made": manifest().model_copy(update={"moe_ray_version": "1"})},
    "batches": {"batch_size": 5},
}


@pytest.mark.parametrize("change", list(OTHERS))
def test_parts_of_another_trace_are_not_used(whole: dict[str, bytes], tmp_path: Path, change: str) -> None:
    out = tmp_path / "t" / "out"
    with pytest.raises(StoppedError):
        written(out, Tracer(2 * TEXTS_PER_PART), **OTHERS[change])
    assert (out.parent / ".out.parts").is_dir()
    tracer = Tracer()
    written(out, tracer)
    assert len(tracer.seen) == NUM_TEXTS
    assert content(out) == whole


def test_parts_end_where_batches_do(tmp_path: Path) -> None:
    """Texts that are read together may round differently, so that batches must not depend on the parts."""
    sizes: list[int] = []

    def trace_texts(texts: Sequence[EncodedText]) -> Iterator[TextTrace]:
        sizes.append(len(texts))
        yield from map(traced, texts)

    ResumableTrace(
        out=tmp_path / "out", manifest=manifest(), texts=encoded(), batch_size=7, with_tokens=True,
        trace_texts=trace_texts,
    ).write(lambda: None)  # fmt: skip
    assert [size % 7 for size in sizes[:-1]] == [0] * (len(sizes) - 1)
    assert sum(sizes) == NUM_TEXTS


def test_few_texts_leave_no_parts(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        written(tmp_path / "t" / "out", Tracer(3), texts=encoded(5))
    assert list((tmp_path / "t").iterdir()) == []


def test_the_letters_of_tokens_are_those_of_a_trace_at_once(tmp_path: Path) -> None:
    write_trace(tmp_path / "whole", manifest(), map(traced, encoded()), with_tokens=True, piece_of=str)
    ResumableTrace(
        out=tmp_path / "parts", manifest=manifest(), texts=encoded(), batch_size=1, with_tokens=True, piece_of=str,
        trace_texts=lambda texts: map(traced, texts),
    ).write(lambda: None)  # fmt: skip
    assert "pieces.parquet" in content(tmp_path / "whole")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
