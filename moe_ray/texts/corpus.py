"""Clean sources of labelled texts and split them into train, validation and test: for routers, gates and experts.

The split of a text follows from a hash of its id, never from its position.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moe_ray.domains.loading import hash_rank
from moe_ray.errors import DataError
from moe_ray.texts.cleaning import CleanSource, TextSource, clean
from moe_ray.texts.labelled import LabelledText, SourceReport

MIN_TEXTS = 10
_NUM_HEX = 13  # 52 bits, which a float holds exactly


class Splits(NamedTuple):
    """Texts in three parts, each in the order of a hash of the ids."""

    train: tuple[LabelledText, ...]
    validation: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]


def split_texts(
    groups: Iterable[Sequence[LabelledText]], *, test_fraction: float, validation_fraction: float | None
) -> Splits:
    """Split each group's texts: `test_fraction` of all for testing, `validation_fraction` of the rest for validation.

    Each text is drawn independently, so that the fractions are met on average. Every part gets at least one text of
    every group with enough texts. Without `validation_fraction` the validation part is empty.
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
    """Return the first texts of each label, as many as the rarest label has."""
    by_label: dict[str, list[LabelledText]] = {}
    for text in texts:
        by_label.setdefault(text.label, []).append(text)
    fewest = min(map(len, by_label.values()), default=0)
    kept = {text.id for group in by_label.values() for text in group[:fewest]}
    return tuple(text for text in texts if text.id in kept)


def _drawn(
    texts: Sequence[LabelledText], part: str, fraction: float, *, num_left: int
) -> tuple[Sequence[LabelledText], Sequence[LabelledText]]:
    """Draw about `fraction` of the texts, at least one; leave at least `num_left` if there are as many."""
    ordered = sorted(texts, key=lambda text: _place(text, part))
    num_drawn = sum(_place(text, part) < fraction for text in ordered)
    num_drawn = max(1, min(num_drawn, len(ordered) - num_left))
    return ordered[:num_drawn], ordered[num_drawn:]


def _place(text: LabelledText, part: str) -> float:
    """Return the hash of a text's id as a number in [0, 1); each part has its own hash."""
    return int(hash_rank(f"{part}:{text.id}")[:_NUM_HEX], 16) / float(1 << 4 * _NUM_HEX)


def _rank(text: LabelledText) -> str:
    return hash_rank(f"order:{text.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The share of texts for testing and, of the rest, for validation (None: no validation texts)."""

    test: float
    validation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts without near duplicates. `labels` are in the order of the sources.

    `held_out` are the sources of use "test", by name; they are in no split. `num_unbalanced` counts, by label, the
    texts that "downsample" dropped.
    """

    labels: tuple[str, ...]
    splits: Splits
    held_out: Mapping[str, tuple[LabelledText, ...]]
    sources: tuple[SourceReport, ...]
    num_unbalanced: Mapping[str, int]


def make_corpus(
    sources: Sequence[TextSource],
    *,
    require: Callable[[Sequence[SourceReport]], None],
    shares: Shares,
    run_forms: Iterable[str] = (),
    balance: str = "none",
    within: Literal["label", "source"] = "label",
    near_duplicates: bool = True,
) -> Corpus:
    """Clean `sources`, check the reports with `require`, and split the texts.

    The shares are met `within` each label, or within each source of a label. With `balance` "downsample" every label
    has as many training and validation texts as the rarest. Without `near_duplicates` those are kept, which suffices
    to count texts, not to train on them.
    """
    cleaned = clean(sources, run_forms, near_duplicates=near_duplicates)
    reports = tuple(source.report for source in cleaned)
    require(reports)
    learned = [source for source in cleaned if source.report.use == "train"]
    drawn = split_texts(_groups(learned, within), test_fraction=shares.test, validation_fraction=shares.validation)
    splits = drawn
    if balance == "downsample":
        splits = Splits(downsampled(drawn.train), downsampled(drawn.validation), drawn.test)
    labels = tuple(dict.fromkeys(source.report.label for source in learned))
    left_out = _counts(drawn) - _counts(splits)
    return Corpus(
        labels=labels,
        splits=splits,
        held_out={source.report.name: source.texts for source in cleaned if source.report.use == "test"},
        sources=reports,
        num_unbalanced={label: left_out[label] for label in labels},
    )


def require_texts(labels: Iterable[str], reports: Sequence[SourceReport], *, minimum: int, key: str) -> None:
    """Raise `DataError` if fewer than `minimum` training texts of a label are left; the labels' config is at `key`."""
    for label in labels:
        num_texts = sum(report.num_kept for report in reports if report.label == label and report.use == "train")
        if num_texts < minimum:
            raise DataError(
                f"{num_texts} texts are left for {label} without duplicates; {minimum} are needed",
                where=f"{key}.{label}",
                remedy="give it more texts",
            )


def _groups(sources: Iterable[CleanSource], within: Literal["label", "source"]) -> list[list[LabelledText]]:
    """Return the texts that are split together. A source with a single text joins another source of its label."""
    groups: dict[tuple[str, str], list[LabelledText]] = {}
    ordered = sorted((one for one in sources if one.texts), key=lambda source: len(source.texts) == 1)
    for source in ordered:
        own = source.report.name if within == "source" else ""
        label = source.report.label
        if len(source.texts) == 1:
            own = next((name for of, name in groups if of == label), own)
        groups.setdefault((label, own), []).extend(source.texts)
    return list(groups.values())


def _counts(splits: Splits) -> Counter[str]:
    return Counter(text.label for part in splits for text in part)
