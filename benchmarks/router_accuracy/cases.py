"""What is asked of the routers: on which texts each is trained, and on which it is tested."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Literal

from benchmarks.router_accuracy import assembling
from benchmarks.router_accuracy.assembling import Corpus, Texts, router_texts
from benchmarks.router_accuracy.out_of_domain_sets import read_out_of_domain
from benchmarks.router_accuracy.routers import TRIALS
from benchmarks.router_accuracy.sources import DOMAINS, LABELS, OWN_SOURCES, read_own, read_prompts, style_only
from moe_ray.config.schema import OTHER
from moe_ray.texts.corpus import Splits
from moe_ray.texts.labelled import RouterTexts

Part = Literal["own", "noisy", "tuning"]

NUM_FOLDS = 3  # the legal prompts come from three subreddits
CURVE = (250, 1000, 4000)
NUM_TUNING_TEXTS = 2000
EXTRA = "noisy prompts"

# Each half of the out-of-domain sets is learned once, as `other`, while the other half stays unseen.
HALVES: Mapping[str, tuple[str, ...]] = {
    "other from half 1": ("clinc150", "gsm8k", "ag_news"),
    "other from half 2": ("banking77", "strategyqa", "newsgroups20"),
}

TFIDF, GATE, SCRATCH, ENCODER = "tfidf", "embedding-minilm", "distilbert-scratch", "minilm"
GATES_FOR_COMPARISON = ("embedding-random", "embedding-stories")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTexts:
    """The texts of a case, and others that the trained router is only shown."""

    texts: RouterTexts
    extra: Mapping[str, Texts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to train and test, and the routers that it is done for. `keep_verdicts`: those of every test text."""

    part: Part
    name: str
    routers: tuple[str, ...]
    build: Callable[["Corpora"], CaseTexts]
    keep_verdicts: bool = False


class Corpora:
    """The two corpora, each read and cleaned when it is first asked for.

    `limits`: texts of a source of own questions, of a label of prompts, of an out-of-domain set; None for all.
    """

    def __init__(self, data: Path, limits: Mapping[str, int | None]) -> None:
        self._data = data
        self._limits = limits

    @cached_property
    def own(self) -> Corpus:
        """The domains' own questions; beside the out-of-domain sets, the noisy prompts of the domains."""
        prompts = {f"{EXTRA}: {label}": texts for label, texts in read_prompts(self._data).items() if label != OTHER}
        return assembling.make_corpus(
            read_own(self._data),
            {**read_out_of_domain(self._data), **prompts},
            own_limit=self._limits["own"],
            out_of_domain_limit=self._limits["out_of_domain"],
        )

    @cached_property
    def prompts(self) -> Corpus:
        """The noisy prompts, by label."""
        return assembling.make_corpus(
            read_prompts(self._data),
            read_out_of_domain(self._data),
            own_limit=self._limits["prompts"],
            out_of_domain_limit=self._limits["out_of_domain"],
        )

    @cached_property
    def prompt_splits(self) -> Splits:
        return assembling.split_by_text(self.prompts.all_own, LABELS)

    @property
    def made(self) -> dict[str, Corpus]:
        """Those that were asked for."""
        return {name: corpus for name, corpus in vars(self).items() if isinstance(corpus, Corpus)}


def _pooled(corpora: Corpora) -> CaseTexts:
    corpus = corpora.own
    out_of_domain = {name: texts for name, texts in corpus.out_of_domain.items() if not name.startswith(EXTRA)}
    extra = {name: texts for name, texts in corpus.out_of_domain.items() if name not in out_of_domain}
    splits = assembling.split_by_text(corpus.all_own, DOMAINS)
    return CaseTexts(texts=router_texts(splits, DOMAINS, out_of_domain), extra=extra)


def _masked(corpora: Corpora) -> CaseTexts:
    return CaseTexts(texts=assembling.rewritten(_pooled(corpora).texts, style_only))


def _across_sources(first: int) -> Callable[[Corpora], CaseTexts]:
    def build(corpora: Corpora) -> CaseTexts:
        unseen = [sources[1 - first] for sources in OWN_SOURCES.values()]
        splits = assembling.split_by_text(corpora.own.all_own, DOMAINS)
        return CaseTexts(texts=router_texts(assembling.hold_out_sources(splits, unseen), DOMAINS, {}))

    return build


def _with_other(half: str) -> Callable[[Corpora], CaseTexts]:
    def build(corpora: Corpora) -> CaseTexts:
        corpus, learned = corpora.own, HALVES[half]
        unseen = {name: corpus.out_of_domain[name] for sets in HALVES.values() if sets != learned for name in sets}
        texts = (*corpus.all_own, *chain.from_iterable(corpus.out_of_domain[name] for name in learned))
        return CaseTexts(texts=router_texts(assembling.split_by_text(texts, LABELS), LABELS, unseen))

    return build


def _all_prompts(corpora: Corpora) -> CaseTexts:
    return CaseTexts(texts=router_texts(corpora.prompt_splits, LABELS, corpora.prompts.out_of_domain))


def _first_prompts(num_texts: int) -> Callable[[Corpora], CaseTexts]:
    def build(corpora: Corpora) -> CaseTexts:
        return CaseTexts(texts=router_texts(assembling.first_texts(corpora.prompt_splits, num_texts), LABELS, {}))

    return build


def _held_out_subreddits(fold: int) -> Callable[[Corpora], CaseTexts]:
    def build(corpora: Corpora) -> CaseTexts:
        held_out = assembling.folds_of_sources(corpora.prompts.all_own, NUM_FOLDS)[fold]
        splits = assembling.hold_out_sources(corpora.prompt_splits, held_out)
        return CaseTexts(texts=router_texts(splits, LABELS, {}))

    return build


def _prompts_without_other(corpora: Corpora) -> CaseTexts:
    splits = corpora.prompt_splits
    other = tuple(text for text in splits.test if text.label == OTHER)
    out_of_domain = {**corpora.prompts.out_of_domain, "other prompts": other}
    return CaseTexts(texts=router_texts(assembling.without_label(splits, OTHER), DOMAINS, out_of_domain))


def _tuning(corpora: Corpora) -> CaseTexts:
    """Train on some texts; one half of the validation texts ends training, the other is the test."""
    train, validation, _ = assembling.first_texts(corpora.prompt_splits, NUM_TUNING_TEXTS)
    splits = Splits(train, validation[::2], validation[1::2])
    return CaseTexts(texts=router_texts(splits, LABELS, {}))


KINDS = (TFIDF, GATE, SCRATCH, ENCODER)
LEARNED = (TFIDF, GATE, ENCODER)
CASES: tuple[Case, ...] = (
    Case(part="own", name="pooled", routers=(*KINDS, *GATES_FOR_COMPARISON), build=_pooled),
    Case(part="noisy", name="all", routers=(*KINDS, *GATES_FOR_COMPARISON), build=_all_prompts, keep_verdicts=True),
    Case(part="own", name="masked", routers=(TFIDF,), build=_masked),
    Case(part="own", name="first to second", routers=LEARNED, build=_across_sources(0)),
    Case(part="own", name="second to first", routers=LEARNED, build=_across_sources(1)),
    *(Case(part="own", name=half, routers=LEARNED, build=_with_other(half)) for half in HALVES),
    Case(part="noisy", name="no other", routers=LEARNED, build=_prompts_without_other),
    *(Case(part="noisy", name=str(number), routers=LEARNED, build=_first_prompts(number)) for number in CURVE),
    Case(part="noisy", name="held out 1", routers=KINDS, build=_held_out_subreddits(0)),
    *(
        Case(part="noisy", name=f"held out {fold + 1}", routers=(TFIDF, GATE), build=_held_out_subreddits(fold))
        for fold in range(1, NUM_FOLDS)
    ),
    Case(part="tuning", name="validation texts", routers=tuple(TRIALS), build=_tuning),
)
"""In the order in which they are done: what matters most comes first."""
