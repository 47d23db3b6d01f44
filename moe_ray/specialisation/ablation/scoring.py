"""The score of a text: what a model loses when an expert is removed shows in it. A higher score is better.

A text with choices is scored by log p(right choice among the choices) in nats, read after the text; another one by
minus its bits per byte. Rows and log-likelihoods are those of the engine's own likelihoods.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.transformers.likelihood import ScoringRow, scoring_rows
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.prompts.encoder import PromptEncoder, RowError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.specialisation.texts import SourceText
from moe_ray.specialisation.tokens import EncodedText, TextEncoder

TextScore = Literal["bits_per_byte", "log_p"]


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


def score_name(texts: Sequence[SourceText]) -> TextScore:
    """Return which score the texts have."""
    return "log_p" if texts and texts[0].choices else "bits_per_byte"


def scored_texts(
    texts: Sequence[SourceText], loaded: LoadedModel, config: ModelConfig, *, max_tokens: int
) -> Iterator[ScoredText | None]:
    """Yield what is read for each text, in their order; None for one that is too short, or does not fit."""
    limit = min(max_tokens, loaded.context_length or max_tokens)
    is_chat = config.prompt_style == "chat"
    if score_name(texts) == "log_p":
        pairs = PromptEncoder(replace(loaded, context_length=limit), config)
        yield from (_with_choices(text, pairs, loaded, is_chat=is_chat) for text in texts)
        return
    encoder = TextEncoder(
        tokenizer=loaded.tokenizer, special_ids=loaded.special_token_ids, max_tokens=limit, chat=is_chat
    )
    yield from (_whole(text, loaded.tokenizer) for text in encoder.encode(texts))


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
