"""Run a causal LM of any family over texts while a mixture is built: texts, token batches, decoder layers.

Shapes: B texts, T tokens, V the vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from moe_ray import architectures
from moe_ray.characters import whole_characters
from moe_ray.domains.sources import read_file, read_text
from moe_ray.engines.transformers.loading import read_pretrained
from moe_ray.errors import DataError, ModelError, first_line
from moe_ray.gating.embeddings import padded

TEXT_KEY = "text"
LABEL_KEYS = ("expert", "label", "domain")
FORMAT_REMEDY = (
    'give records with "text", and "expert" for gates (JSON, JSONL, CSV, Parquet), or a .txt with a blank line between'
)
# Enough to test whether a conversion is exact; too little to judge noise.
BUILT_IN = (
    "The river rises in the hills, passes two old mills and a railway bridge, and reaches the sea after forty miles. "
    "In spring it carries so much water that the lower meadows are flooded for weeks.",
    "def mean(values):\n    if not values:\n        raise ValueError('none')\n    return sum(values) / len(values)\n",
    "A train leaves at 9:40 and travels 150 km at 60 km/h. The journey takes 150 / 60 = 2.5 hours, so it arrives at "
    "12:10.",
    "Patients were assigned at random to the new drug or to a placebo. After twelve weeks the mean blood pressure had "
    "fallen by 8 mmHg in the first group and by 3 mmHg in the second.",
    "The seller must deliver the goods within thirty days. If delivery is late by more than ten days, the buyer may "
    "withdraw from the contract and claim back what was paid.",
    "Shopping list:\n- two loaves of bread\n- a dozen eggs\n- olive oil\n- something nice for Anna's birthday\n",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeTexts:
    """Texts for gates and tests. `labels` are indices into `experts`, one for each text; empty for unlabelled texts."""

    texts: tuple[str, ...]
    experts: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()


def built_in_texts() -> ProbeTexts:
    return ProbeTexts(texts=BUILT_IN)


def read_texts(path: Path) -> ProbeTexts:
    """Read texts with the experts that their records name. Experts are in order of first appearance.

    Raises `DataError` if the file is missing or malformed, holds no texts, or labels only some of them.
    """
    if path.suffix == ".txt":
        return _non_empty(
            ProbeTexts(texts=tuple(part.strip() for part in read_text(path).split("\n\n") if part.strip())), path
        )
    records = read_file(path)
    texts = [record.get(TEXT_KEY) for record in records]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"some records have no {TEXT_KEY!r}", where=str(path), remedy=FORMAT_REMEDY)
    key = next((key for key in LABEL_KEYS if any(record.get(key) is not None for record in records)), None)
    named = [str(record[key]) if record.get(key) is not None else None for record in records] if key else []
    if None in named:
        raise DataError(f"some records have {key!r}, and some have not", where=str(path), remedy=FORMAT_REMEDY)
    return _non_empty(_labelled([str(text) for text in texts], [str(name) for name in named]), path)


def _labelled(texts: Sequence[str], names: Sequence[str]) -> ProbeTexts:
    experts = tuple(dict.fromkeys(names))
    indices = {name: index for index, name in enumerate(experts)}
    return ProbeTexts(texts=tuple(texts), experts=experts, labels=tuple(indices[name] for name in names))


def _non_empty(texts: ProbeTexts, path: Path) -> ProbeTexts:
    if not texts.texts:
        raise DataError("holds no texts", where=str(path), remedy=FORMAT_REMEDY)
    return texts


MAX_BATCH_NUMBERS = 1 << 26  # logits at once: 256 MiB in float32
MAX_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenBatch:
    """Token ids and attention mask [B, T], padded on the right. `labels` are the texts' experts, or empty."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return int(self.attention_mask.sum())


def load_for_construction(directory: Path, *, device: str = "cpu", experts_implementation: str | None = None) -> Any:
    """Load a checkpoint with transformers, in float32 and evaluation mode. Raises `ModelError`."""
    architectures.register()
    chosen: dict[str, Any] = {"experts_implementation": experts_implementation} if experts_implementation else {}
    try:
        model = read_pretrained(transformers.AutoModelForCausalLM, directory, dtype=torch.float32, **chosen)
    except Exception as error:
        # Configurations, safetensors and pickle raise arbitrary errors; the cause is chained.
        raise ModelError(
            f"cannot be loaded: {first_line(error)}", where=str(directory), remedy="check that the checkpoint is whole"
        ) from error
    return model.to(device).eval()


def load_tokenizer(directory: Path) -> Any:
    """Load a checkpoint's tokenizer. Raises `ModelError`."""
    architectures.register()
    try:
        return read_pretrained(transformers.AutoTokenizer, directory)
    except Exception as error:
        # Tokenizer parsers raise arbitrary errors; the cause is chained.
        raise ModelError(
            f"no usable tokenizer: {first_line(error)}", where=str(directory), remedy="put its files beside the weights"
        ) from error


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return a causal LM's decoder layers: its outermost module list with as many layers as its config says."""
    num_layers = int(model.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ModelError(
        f"{type(model).__name__} has no list of {num_layers} decoder layers",
        remedy="choose a decoder-only transformer",
    )


def feed_forward(layer: nn.Module) -> nn.Module:
    """Return the module of a dense decoder layer whose input a gate would read; OPT has no separate mlp module."""
    for name in ("mlp", "fc1"):
        found = getattr(layer, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ModelError(f"{type(layer).__name__} has no mlp", remedy="choose a family that can be upcycled")


@contextmanager
def replaced_layers(model: nn.Module, replacements: Mapping[int, nn.Module]) -> Iterator[None]:
    """Replace some of the model's decoder layers within the context."""
    layers = decoder_layers(model)
    own = {at: layers[at] for at in replacements}
    try:
        for at, layer in replacements.items():
            layers[at] = layer
        yield
    finally:
        for at, layer in own.items():
            layers[at] = layer


def token_batches(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    vocabulary_size: int,
    max_text_tokens: int,
    max_tokens: int | None = None,
    labels: Sequence[int] = (),
) -> list[TokenBatch]:
    """Return the texts' tokens in order, in batches whose logits fit in `MAX_BATCH_NUMBERS`.

    Texts are truncated to `max_text_tokens`; only texts that start within the first `max_tokens` tokens are used. Texts
    of fewer than two tokens are dropped. Raises `DataError` if none is left, and `ModelError` for token ids outside of
    the model's vocabulary.
    """
    readable = [whole_characters(text, "?") for text in texts]
    encoded = tokenizer(readable, truncation=True, max_length=max_text_tokens)["input_ids"]
    _require_known_tokens(encoded, vocabulary_size)
    rows = [(row, at) for at, row in enumerate(encoded) if len(row) >= 2]
    if not rows:
        raise DataError("no text has two tokens", remedy="give longer texts")
    limit = min(MAX_BATCH_TOKENS, max(1, MAX_BATCH_NUMBERS // vocabulary_size))
    batches: list[TokenBatch] = []
    num_read, waiting = 0, list[tuple[list[int], int]]()
    for row, at in rows:
        if max_tokens is not None and num_read >= max_tokens:
            break
        num_read += len(row)
        if waiting and (len(waiting) + 1) * max(len(row), *(len(one) for one, _ in waiting)) > limit:
            batches.append(_batch(waiting, labels))
            waiting = []
        waiting.append((row, at))
    return [*batches, _batch(waiting, labels)]


def _require_known_tokens(encoded: Sequence[Sequence[int]], vocabulary_size: int) -> None:
    largest = max((max(row, default=0) for row in encoded), default=0)
    if largest >= vocabulary_size:
        raise ModelError(
            f"its tokenizer gives token {largest}, and its vocabulary has {vocabulary_size}",
            remedy="put the files of the tokenizer that it was trained with beside the weights",
        )


def _batch(rows: Sequence[tuple[list[int], int]], labels: Sequence[int]) -> TokenBatch:
    input_ids, attention_mask = padded([row for row, _ in rows])
    found = tuple(labels[at] for _, at in rows) if labels else ()
    return TokenBatch(input_ids=input_ids, attention_mask=attention_mask, labels=found)


def logits_of(model: Any, batch: TokenBatch) -> torch.Tensor:
    """Return the model's float32 logits [B, T, V]; undefined at padding."""
    device = model.device
    output = model(
        input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
    )
    logits: torch.Tensor = output.logits.float()
    return logits
