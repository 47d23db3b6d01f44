"""The score of a text: what a model loses when an expert is removed shows in it. A higher score is better.

A text with choices is scored by log p(right choice among the choices) in nats, read after the text; another one by
minus its bits per byte. Rows and log-likelihoods are those of the engine's own likelihoods. A sequence classifier has
its classes as choices, whose log-probabilities its head gives.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.transformers.classifying import class_log_probabilities, class_names
from moe_ray.engines.transformers.likelihood import ScoringRow, score_batch, scoring_rows
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.errors import DataError
from moe_ray.formatting import listed
from moe_ray.prompts.encoder import PromptEncoder, RowError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.specialisation.texts import SourceText
from moe_ray.specialisation.tokens import EncodedText, TextEncoder

# For special tokens, and for a cut text that is encoded to a few more tokens than were decoded.
NUM_SPARE_TOKENS = 8
TextScore = Literal["bits_per_byte", "log_p"]
# From rows that are read together to the log-likelihoods of their continuations, or of classes, by place.
RowReader = Callable[[Sequence[ScoringRow]], list[dict[int, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredText:
    """What is read to score a text: `rows`, whose targets are the text itself or its choices by their places.

    `num_bytes` is the length of the text that is predicted, 0 for a text with choices; `counted` says which tokens of
    each row are the text's own.
    """

    source: SourceText
    rows: tuple[ScoringRow, ...]
    counted: tuple[tuple[bool, ...], ...]
    num_bytes: int

    def score(self, loglikelihoods: Mapping[int, float]) -> float:
        """Return the score of log-likelihoods by place: nats, or minus bits per byte."""
        if not self.source.choices:
            return loglikelihoods[0] / math.log(2) / self.num_bytes
        values = np.array([loglikelihoods[place] for place in range(len(self.source.choices))])
        largest = values.max()
        return float(values[self.source.answer] - largest - np.log(np.exp(values - largest).sum()))

    def is_right(self, loglikelihoods: Mapping[int, float]) -> bool | None:
        """Return whether the right choice is the likeliest; None for a text without choices."""
        if not self.source.choices:
            return None
        return max(loglikelihoods, key=lambda place: loglikelihoods[place]) == self.source.answer


def row_reader(loaded: LoadedModel) -> RowReader:
    """Return how rows are read by this model."""
    if class_names(loaded):
        return lambda rows: class_log_probabilities(loaded, [row.token_ids for row in rows])
    return lambda rows: [one.loglikelihoods for one in score_batch(loaded, rows)]


def with_classes(texts: Sequence[SourceText], loaded: LoadedModel) -> tuple[SourceText, ...]:
    """Give each text the classes of a classifier as its choices; for another model the texts stay as they are.

    Raises `DataError` for a text whose class the classifier does not have.
    """
    names = class_names(loaded)
    if not names:
        return tuple(texts)
    unknown = sorted({text.label for text in texts} - set(names))
    if unknown:
        raise DataError(
            f"the classifier has no class {unknown[0]!r}",
            where="--texts",
            remedy=f"label the texts with its classes: {listed(list(names))}",
        )
    return tuple(replace(text, choices=names, answer=names.index(text.label)) for text in texts)


def as_questions(
    texts: Sequence[SourceText], names: Sequence[str], question: str, loaded: LoadedModel, *, max_tokens: int
) -> tuple[SourceText, ...]:
    """Ask for the class of each text: `question` follows the text, and the `names` of all classes are the choices.

    A text is cut so that it fits into `max_tokens` with the question and the longest name. Raises `DataError` with
    fewer than two classes, and for a classifier, which needs no question.
    """
    if class_names(loaded):
        raise DataError("a classifier has its own classes", where="--zero-shot", remedy="leave --zero-shot out")
    if len(names) < 2:
        raise DataError(f"the texts have {len(names)} class", where="--zero-shot", remedy="give labelled texts")
    room = min(max_tokens, loaded.context_length or max_tokens)
    room -= len(_ids(loaded, question)) + max(len(_ids(loaded, f" {name}")) for name in names) + NUM_SPARE_TOKENS
    if room < 1:
        raise DataError("leaves no room for a text", where="--zero-shot", remedy="shorten it, or raise --max-tokens")

    def cut(text: str) -> str:
        ids = _ids(loaded, text)
        return text if len(ids) <= room else str(loaded.tokenizer.decode(ids[:room], skip_special_tokens=True))

    return tuple(
        replace(text, text=f"{cut(text.text)}{question}", choices=tuple(names), answer=names.index(text.label))
        for text in texts
    )


def _ids(loaded: LoadedModel, text: str) -> list[int]:
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def score_name(texts: Sequence[SourceText]) -> TextScore:
    """Return which score the texts have."""
    return "log_p" if texts and texts[0].choices else "bits_per_byte"


def scored_texts(
    texts: Sequence[SourceText], loaded: LoadedModel, config: ModelConfig, *, max_tokens: int
) -> Iterator[ScoredText | None]:
    """Yield what is read for each text, in their order; None for one that is too short, or does not fit."""
    limit = min(max_tokens, loaded.context_length or max_tokens)
    is_chat = config.prompt_style == "chat"
    is_classifier = bool(class_names(loaded))
    if score_name(texts) == "log_p" and not is_classifier:
        pairs = PromptEncoder(replace(loaded, context_length=limit), config)
        yield from (_with_choices(text, pairs, loaded, is_chat=is_chat) for text in texts)
        return
    encoder = TextEncoder(
        tokenizer=loaded.tokenizer, special_ids=loaded.special_token_ids, max_tokens=limit, chat=is_chat
    )
    for text in encoder.encode(texts):
        yield _classified(text) if is_classifier else _whole(text, loaded.tokenizer)


def _with_choices(text: SourceText, encoder: PromptEncoder, loaded: LoadedModel, *, is_chat: bool) -> ScoredText | None:
    spelled = tuple(one if is_chat or one[:1].isspace() else f" {one}" for one in text.choices)
    prompt = Prompt(messages=(Message(role="user", content=text.text),), choices=spelled)
    try:
        pair = encoder.encode_pair(prompt)
    except RowError:
        return None
    if len(pair.fitting) < len(spelled):
        return None
    rows = tuple(scoring_rows(0, text.text_id, pair, longest_shared=loaded.rope_switch_length))
    counted = tuple(tuple(token not in loaded.special_token_ids for token in row.token_ids) for row in rows)
    return ScoredText(source=text, rows=rows, counted=counted, num_bytes=0)


def _classified(text: EncodedText) -> ScoredText | None:
    """Read the whole text once; its head gives the log-probabilities of all classes."""
    if not text.num_counted:
        return None
    row = ScoringRow(index=0, id=text.source.text_id, token_ids=text.token_ids, num_logits=1, targets=())
    return ScoredText(source=text.source, rows=(row,), counted=(text.counted,), num_bytes=0)


def _whole(text: EncodedText, tokenizer: Any) -> ScoredText | None:
    """Read a text's own tokens after those in front of it, or after its first one."""
    own = [place for place, is_own in enumerate(text.counted) if is_own]
    if not own or own[-1] < 1:
        return None
    start, end = max(1, own[0]), own[-1] + 1
    targets = text.token_ids[start:end]
    num_bytes = len(tokenizer.decode(targets, skip_special_tokens=True).encode())
    if not num_bytes:
        return None
    row = ScoringRow(
        index=0,
        id=text.source.text_id,
        token_ids=text.token_ids[: end - 1],
        num_logits=len(targets),
        targets=((0, targets),),
    )
    return ScoredText(source=text.source, rows=(row,), counted=(text.counted[: end - 1],), num_bytes=num_bytes)
