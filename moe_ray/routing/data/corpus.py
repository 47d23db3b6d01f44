"""From sources of labelled texts to the parts that train, validate and test: one way for all that learns from texts.

Sources are cleaned together, enough must be left of them, and each text's part follows from a hash of its id. Where a
text stands, in its file or among the sources, decides nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moe_ray.routing.data.cleaning import CleanSource, TextSource, clean
from moe_ray.routing.data.report import SourceReport
from moe_ray.routing.data.splitting import Splits, downsampled, split_texts
from moe_ray.routing.texts import LabelledText


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """The shares of the texts that test and, of the rest, that validate; None: no text validates."""

    test: float
    validation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts of which no two are (nearly) the same. `labels` are in the order of the sources.

    `apart` are the sources of use "test", by name: no split has texts of them. `num_unbalanced` counts, by label, the
    texts that "downsample" left out.
    """

    labels: tuple[str, ...]
    splits: Splits
    apart: Mapping[str, tuple[LabelledText, ...]]
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
) -> Corpus:
    """Clean `sources`, let `require` refuse what is left of them, and split it.

    The shares are met `within` each label, or within each source of a label too. "downsample" as `balance` leaves every
    label as many texts to train and to validate with as the rarest has.
    """
    cleaned = clean(sources, run_forms)
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
        apart={source.report.name: source.texts for source in cleaned if source.report.use == "test"},
        sources=reports,
        num_unbalanced={label: left_out[label] for label in labels},
    )


def num_left(reports: Iterable[SourceReport], label: str) -> int:
    """Return the number of texts of a label that are left to learn from."""
    return sum(report.num_kept for report in reports if report.label == label and report.use == "train")


def _groups(sources: Iterable[CleanSource], within: Literal["label", "source"]) -> list[list[LabelledText]]:
    """The texts that are split together. A source with one text alone, which cannot be split, joins another's."""
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
