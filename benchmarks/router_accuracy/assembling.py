"""Texts without duplicates, split in honest ways: by text, by where they come from, and by number."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from moe_ray.config.schema import OTHER
from moe_ray.domains.loading import hash_rank
from moe_ray.texts.cleaning import Candidate, TextSource, clean
from moe_ray.texts.corpus import Splits, split_texts
from moe_ray.texts.labelled import LabelledText, RouterTexts, SourceReport
from moe_ray.texts.similarity import normal_form

TEST_FRACTION, VALIDATION_FRACTION = 0.2, 0.1  # as in an experiment that says nothing else

Use = Literal["train", "test"]
Texts = tuple[LabelledText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Texts of which no two are the same, or nearly so: to learn from by source, and out-of-domain sets by name."""

    own: Mapping[str, Texts]
    out_of_domain: Mapping[str, Texts]
    reports: tuple[SourceReport, ...]

    @property
    def all_own(self) -> Texts:
        return tuple(chain.from_iterable(self.own.values()))


def make_corpus(
    own: Mapping[str, Sequence[LabelledText]],
    out_of_domain: Mapping[str, Sequence[LabelledText]],
    *,
    own_limit: int | None,
    out_of_domain_limit: int | None,
) -> Corpus:
    """Clean all texts together, as `moe-ray router` does. A limit is one on the texts of a source that are kept."""
    sources = [_source(name, texts, "train", own_limit) for name, texts in own.items()]
    sources += [_source(name, texts, "test", out_of_domain_limit) for name, texts in out_of_domain.items()]
    cleaned = clean(sources, ())
    kept = dict(zip([*own, *out_of_domain], (source.texts for source in cleaned), strict=True))
    return Corpus(
        own={name: kept[name] for name in own},
        out_of_domain={name: kept[name] for name in out_of_domain},
        reports=tuple(source.report for source in cleaned),
    )


def _source(name: str, texts: Sequence[LabelledText], use: Use, limit: int | None) -> TextSource:
    candidates = [Candidate(text=text, form=normal_form(text.text)) for text in texts]
    return TextSource(name=name, label=texts[0].label, use=use, limit=limit, candidates=candidates)


def split_by_text(texts: Sequence[LabelledText], labels: Sequence[str]) -> Splits:
    """Split by a hash of the ids, each label by itself."""
    by_label = {label: [text for text in texts if text.label == label] for label in labels}
    return split_texts(by_label.values(), test_fraction=TEST_FRACTION, validation_fraction=VALIDATION_FRACTION)


def router_texts(splits: Splits, labels: Sequence[str], out_of_domain: Mapping[str, Texts]) -> RouterTexts:
    """Return the splits as a router's texts."""
    return RouterTexts(
        labels=tuple(labels),
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        out_of_domain=out_of_domain,
    )


def hold_out_sources(splits: Splits, sources: Collection[str]) -> Splits:
    """Train without `sources`, and test on nothing else: on their texts of all three splits."""
    train, validation = (tuple(text for text in part if text.source not in sources) for part in splits[:2])
    return Splits(train, validation, tuple(text for part in splits for text in part if text.source in sources))


def folds_of_sources(texts: Sequence[LabelledText], num_folds: int) -> list[frozenset[str]]:
    """Deal each label's sources out to the folds, in the order of a hash of their names.

    Every fold holds sources of every label that has as many as there are folds.
    """
    by_label: dict[str, set[str]] = {}
    for text in texts:
        by_label.setdefault(text.label, set()).add(text.source)
    ordered = {label: sorted(sources, key=hash_rank) for label, sources in by_label.items()}
    return [
        frozenset(chain.from_iterable(sources[fold::num_folds] for sources in ordered.values()))
        for fold in range(num_folds)
    ]


def first_texts(splits: Splits, num_texts: int) -> Splits:
    """Train on the first `num_texts` of a hash's order: a smaller number's texts are among a larger number's."""
    return splits._replace(train=splits.train[:num_texts])


def without_label(splits: Splits, label: str) -> Splits:
    """Leave all texts of a label out."""
    return Splits(*(tuple(text for text in part if text.label != label) for part in splits))


def rewritten(texts: RouterTexts, rewrite: Callable[[str], str]) -> RouterTexts:
    """Return the same texts, each as `rewrite` puts it, without the out-of-domain sets."""
    parts = (
        tuple(replace(text, text=rewrite(text.text)) for text in part)
        for part in (texts.train, texts.validation, texts.test)
    )
    train, validation, test = parts
    return RouterTexts(labels=texts.labels, train=train, validation=validation, test=test, out_of_domain={})


def labelled_other(texts: Sequence[LabelledText]) -> Texts:
    """The same texts, of the label of queries that belong to no domain."""
    return tuple(replace(text, label=OTHER) for text in texts)
