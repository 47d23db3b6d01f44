"""How far two sides agree, from what both said. Nothing here runs a model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.peers.theirs import Spoken
from moe_ray.store.answers import Answer

LIKELIHOOD_TOLERANCE = 1e-4
EQUAL_SHARE = 0.99
Kind = Literal["tokens", "end", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two answers that are not equal.

    tokens: they differ at `position`, where each side chose its token of `tokens` (ours, theirs; None: it had ended).
    end: equal tokens as far as ours go, and one side has more text. text: equal tokens, spelled otherwise.
    """

    example_id: str
    kind: Kind
    position: int
    tokens: tuple[int | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextAgreement:
    """Generated answers of one domain: how many are equal token for token and in their text, and the others."""

    num_examples: int
    num_tokens: int
    differences: tuple[Difference, ...]

    @property
    def equal_share(self) -> float:
        return 1 - len(self.differences) / self.num_examples

    @property
    def holds(self) -> bool:
        return self.equal_share >= EQUAL_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodAgreement:
    """Log-likelihoods of one domain's continuations: the largest difference in nats, and their mean size."""

    num_values: int
    largest_difference: float
    mean_size: float

    @property
    def holds(self) -> bool:
        return self.largest_difference <= LIKELIHOOD_TOLERANCE


def difference(ours: Answer, theirs: Spoken) -> Difference | None:
    """Return how one answer differs, None when it does not.

    Ours are the tokens up to the end; theirs go on with end and padding tokens, and past a stop string while other
    rows of the batch still run. So theirs must begin with ours, and the texts must be the same.
    """
    tokens = tuple(ours.token_ids or ())
    for position, token in enumerate(tokens):
        other = theirs.token_ids[position] if position < len(theirs.token_ids) else None
        if other != token:
            return _differs(ours, "tokens", position, (token, other))
    if ours.text == theirs.text:
        return None
    text, other_text = ours.text or "", theirs.text
    is_longer = text.startswith(other_text) or other_text.startswith(text)
    following = theirs.token_ids[len(tokens)] if len(tokens) < len(theirs.token_ids) else None
    return _differs(ours, "end" if is_longer else "text", len(tokens), (None, following))


def _differs(ours: Answer, kind: Kind, position: int, tokens: tuple[int | None, int | None]) -> Difference:
    return Difference(example_id=ours.example_id, kind=kind, position=position, tokens=tokens)


def compare_texts(ours: Mapping[str, Answer], theirs: Mapping[str, Spoken]) -> TextAgreement:
    """Compare the answers of one domain, both by example. Raises `ValueError` when they are not of the same ones."""
    _require_same(ours, theirs)
    found = [difference(answer, theirs[example_id]) for example_id, answer in sorted(ours.items())]
    return TextAgreement(
        num_examples=len(ours),
        num_tokens=sum(answer.num_completion_tokens for answer in ours.values()),
        differences=tuple(one for one in found if one is not None),
    )


def compare_likelihoods(
    ours: Mapping[str, Sequence[float | None]], theirs: Mapping[str, Sequence[float]]
) -> LikelihoodAgreement:
    """Compare log-likelihoods by example and continuation; one that only we lack differs infinitely.

    Raises `ValueError` when examples or the numbers of their continuations differ.
    """
    _require_same(ours, theirs)
    pairs = [pair for key, values in ours.items() for pair in zip(values, theirs[key], strict=True)]
    gaps = [math.inf if value is None else abs(value - other) for value, other in pairs]
    sizes = [abs(other) for _, other in pairs]
    return LikelihoodAgreement(num_values=len(pairs), largest_difference=max(gaps), mean_size=sum(sizes) / len(sizes))


def _require_same(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    if ours.keys() != theirs.keys() or not ours:
        raise ValueError(f"{len(ours.keys() ^ theirs.keys())} examples are on one side only, of {len(ours)} of ours")


def answer_length(token_ids: Sequence[int], end_token_ids: frozenset[int]) -> int:
    """Return how many tokens come before the first end token."""
    return next((place for place, token in enumerate(token_ids) if token in end_token_ids), len(token_ids))
