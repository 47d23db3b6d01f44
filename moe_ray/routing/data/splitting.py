"""Which texts train, validate and test: by a hash of their ids, so that a text stays where it is when others come."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from moe_ray.domains.sampling import hash_rank
from moe_ray.routing.texts import LabelledText

_NUM_HEX = 13  # 52 bits, which a float holds exactly


class Splits(NamedTuple):
    """The texts of a router in three parts, each in the order of a hash of the ids."""

    train: tuple[LabelledText, ...]
    validation: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]


def split_texts(
    groups: Iterable[Sequence[LabelledText]], *, test_fraction: float, validation_fraction: float | None
) -> Splits:
    """Split each group's texts: `test_fraction` of all for the test, `validation_fraction` of the rest to validate.

    Each text is drawn by itself, so that the shares are met on average; every part gets one text of every group at
    least, if it has as many as there are parts. Without a `validation_fraction` there are two.
    """
    parts: tuple[list[LabelledText], ...] = ([], [], [])
    for texts in groups:
        test, train = _drawn(texts, "test", test_fraction, num_left=1 if validation_fraction is None else 2)
        validation: Sequence[LabelledText] = ()
        if validation_fraction is not None:
            validation, train = _drawn(train, "validation", validation_fraction, num_left=1)
        for part, taken in zip(parts, (train, validation, test), strict=True):
            part.extend(taken)
    return Splits(*(tuple(sorted(part, key=_rank)) for part in parts))


def downsampled(texts: Sequence[LabelledText]) -> tuple[LabelledText, ...]:
    """Return as many texts of each label as the rarest of them has: those that come first."""
    by_label: dict[str, list[LabelledText]] = {}
    for text in texts:
        by_label.setdefault(text.label, []).append(text)
    fewest = min(map(len, by_label.values()), default=0)
    kept = {text.id for group in by_label.values() for text in group[:fewest]}
    return tuple(text for text in texts if text.id in kept)


def _drawn(
    texts: Sequence[LabelledText], part: str, fraction: float, *, num_left: int
) -> tuple[Sequence[LabelledText], Sequence[LabelledText]]:
    """Draw about `fraction` of the texts; one at least, and so that `num_left` are left, if there are as many."""
    ordered = sorted(texts, key=lambda text: _place(text, part))
    num_drawn = sum(_place(text, part) < fraction for text in ordered)
    num_drawn = max(1, min(num_drawn, len(ordered) - num_left))
    return ordered[:num_drawn], ordered[num_drawn:]


def _place(text: LabelledText, part: str) -> float:
    """Return where in [0, 1) the hash of a text's id falls; each part has a hash of its own."""
    return int(hash_rank(f"{part}:{text.id}")[:_NUM_HEX], 16) / float(1 << 4 * _NUM_HEX)


def _rank(text: LabelledText) -> str:
    return hash_rank(f"order:{text.id}")
