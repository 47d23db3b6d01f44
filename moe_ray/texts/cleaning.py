"""Deduplicate texts: no example of the run, no duplicates, no text with two labels.

What is kept depends on the texts alone, never on the order of the records: they are taken in the order of the hash of
their ids, out-of-domain sets last, and a text is kept unless it is (nearly) one that was kept before. So of texts that
are nearly the same one stays, and no two splits can share them however they are drawn afterwards.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from moe_ray.domains.loading import hash_rank
from moe_ray.texts.labelled import LabelledText, Reason, SourceReport
from moe_ray.texts.similarity import NearIndex, shingles

# A part of what names a router's texts before they are made. Raise it with every change that makes other texts of the
# same records: to the shipped tasks, their normal form, near duplicates, the order or the split.
TEXTS_VERSION = 1
_NUM_SAMPLED = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A text that may be kept. `form` is its normal form without a template around it: what is compared."""

    text: LabelledText
    form: str
    is_of_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """The texts of one data set, which bear one label. `limit`: how many may be kept.

    A source of use "test" is an out-of-domain set: it is compared with all others, and changes nothing about them.
    """

    name: str
    label: str
    use: Literal["train", "test"]
    limit: int | None
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSource:
    """What is left of a source, in the order of the hash of the ids."""

    texts: tuple[LabelledText, ...]
    report: SourceReport


def clean(
    sources: Sequence[TextSource], run_forms: Iterable[str], *, near_duplicates: bool = True
) -> list[CleanSource]:
    """Remove duplicates within and across `sources`, and all that is (nearly) one of `run_forms`.

    The result is in the order of `sources`. Of equal texts with two labels none is kept. Without `near_duplicates` only
    equal texts are removed, which takes no search: no fewer texts are kept than with it.
    """
    ordered = sorted(
        ((source.use == "test", hash_rank(candidate.text.id), at, candidate) for at, source in enumerate(sources)
         for candidate in source.candidates),
        key=lambda entry: entry[:3],
    )  # fmt: skip
    sample = [shingles(candidate.form) for *_, candidate in ordered[:_NUM_SAMPLED]] if near_duplicates else []
    sieve = _Sieve(sources, run_forms, NearIndex(sample) if near_duplicates else None)
    kept: list[list[LabelledText]] = [[] for _ in sources]
    dropped: list[Counter[Reason]] = [Counter() for _ in sources]
    for _, _, at, candidate in ordered:
        is_full = sources[at].limit is not None and len(kept[at]) == sources[at].limit
        reason = sieve.reason_to_drop(candidate, is_full=is_full)
        if reason is None:
            kept[at].append(candidate.text)
        else:
            dropped[at][reason] += 1
    return [_clean_source(*parts) for parts in zip(sources, kept, dropped, strict=True)]


def _clean_source(source: TextSource, texts: Sequence[LabelledText], dropped: Counter[Reason]) -> CleanSource:
    report = SourceReport(
        name=source.name,
        label=source.label,
        use=source.use,
        num_records=len(source.candidates),
        num_kept=len(texts),
        dropped=dict(dropped),
    )
    return CleanSource(texts=tuple(texts), report=report)


class _Sieve:
    """Keeps what it let pass, and lets nothing pass that is like it."""

    def __init__(self, sources: Sequence[TextSource], run_forms: Iterable[str], near: NearIndex | None) -> None:
        self._run_forms = frozenset(run_forms)
        self._labels = _labels_by_form(sources)
        self._kept: set[str] = set()
        self._near = near
        if near is not None:
            for form in self._run_forms:
                near.add(form, shingles(form))

    def reason_to_drop(self, candidate: Candidate, *, is_full: bool) -> Reason | None:
        """Say why a text is not kept; None, and it is kept. Cheap reasons go before dear ones."""
        reason = self._plain_reason(candidate)
        if reason is None and is_full:
            return "over the limit"
        return reason or self._near_reason(candidate.form)

    def _plain_reason(self, candidate: Candidate) -> Reason | None:
        form = candidate.form
        if not form:
            return "empty"
        if candidate.is_of_run or form in self._run_forms:
            return "of the run"
        if len(self._labels.get(form, ())) > 1:
            return "two labels"
        return "duplicate" if form in self._kept else None

    def _near_reason(self, form: str) -> Reason | None:
        if self._near is not None:
            own = shingles(form)
            if near := self._near.near(own):
                return "near duplicate" if self._run_forms.isdisjoint(near) else "nearly of the run"
            self._near.add(form, own)
        self._kept.add(form)
        return None


def _labels_by_form(sources: Sequence[TextSource]) -> dict[str, set[str]]:
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.use == "train":
            for candidate in source.candidates:
                labels[candidate.form].add(source.label)
    return labels
