"""From an experiment to the texts that its router is trained and tested on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.domains.example import Example
from moe_ray.domains.sources import ReadSource, read_source
from moe_ray.errors import ConfigError, DataError
from moe_ray.runs.inputs import located
from moe_ray.texts.cleaning import TextSource
from moe_ray.texts.corpus import MIN_TEXTS, Shares, make_corpus
from moe_ray.texts.labelled import REASONS, DataReport, Reason, RouterTexts, SourceReport
from moe_ray.texts.sources import domain_source, other_sources


class RouterData(NamedTuple):
    """A router's texts, and what became of the records that they were made from."""

    texts: RouterTexts
    report: DataReport


def read_texts(
    experiment: LoadedExperiment,
    run_examples: Mapping[str, Sequence[Example]],
    *,
    read: ReadSource = read_source,
    near_duplicates: bool = True,
) -> RouterData:
    """Read the texts of the experiment's router; `run_examples` are the examples that the run evaluates, by domain.

    None of the texts is one of those examples, or nearly the same as one, or as another text. They follow from the
    records, not from the order of them, and a text stays in its split when records are added. A text's id begins with
    its domain, or with `other` and the name of its set. Without `near_duplicates` no near duplicates are searched and
    left out: enough to say how many texts there are at most.

    Raises `ConfigError` without a section `router`, and `DataError` when a domain's data cannot be read or when fewer
    than `MIN_TEXTS` texts of a label, or none of an out-of-domain set, are left.
    """
    router = required_router(experiment)
    with located(experiment):
        sources, run_forms = _sources(experiment, router, run_examples, read)
        corpus = make_corpus(
            sources,
            run_forms=run_forms,
            require=lambda reports: _require_enough(reports, router),
            shares=Shares(test=router.test_fraction, validation=router.validation_fraction),
            balance=router.balance,
            near_duplicates=near_duplicates,
        )
    train, validation, test = corpus.splits
    return RouterData(
        RouterTexts(labels=corpus.labels, train=train, validation=validation, test=test, out_of_domain=corpus.apart),
        DataReport(sources=corpus.sources, num_unbalanced=corpus.num_unbalanced),
    )


def required_router(experiment: LoadedExperiment) -> RouterConfig:
    """Return the experiment's section `router`. Raises `ConfigError` where there is none."""
    if experiment.config.router is None:
        raise ConfigError(
            "the experiment has no router", where=str(experiment.path), remedy="add a section `router:` to it"
        )
    return experiment.config.router


def _sources(
    experiment: LoadedExperiment,
    router: RouterConfig,
    run_examples: Mapping[str, Sequence[Example]],
    read: ReadSource,
) -> tuple[list[TextSource], list[str]]:
    """The sources of the router's texts, and the forms of the queries that the run asks."""
    sources, run_forms = [], []
    for name, domain in experiment.config.domains.items():
        source, forms = domain_source(name, domain, router, run_examples.get(name, ()), experiment.base_dir, read)
        sources.append(source)
        run_forms += forms
    return [*sources, *other_sources(router, experiment.base_dir, read)], run_forms


def _require_enough(reports: Sequence[SourceReport], router: RouterConfig) -> None:
    taught = [source for source in reports if source.label == OTHER and source.use == "train"]
    if taught:
        _require(taught, MIN_TEXTS, where="router.other", remedy="give more of them, or none")
    for source in reports:
        if source.use == "test":
            _require([source], 1, where="router.other", remedy="name another set, or remove this one")
        elif source.label != OTHER:
            own = source.name in router.data
            _require(
                [source],
                MIN_TEXTS,
                where=f"router.data.{source.name}" if own else f"domains.{source.name}.data",
                remedy=f"lower domains.{source.name}.max_examples, which leaves more records to the router; "
                f"or name {'other' if own else 'its own'} records under router.data.{source.name}",
            )


def _require(sources: Sequence[SourceReport], num_needed: int, *, where: str, remedy: str) -> None:
    """Raise `DataError`, telling what became of all records, when fewer texts than `num_needed` are left."""
    num_kept = sum(source.num_kept for source in sources)
    if num_kept >= num_needed:
        return
    dropped = sum((Counter(source.dropped) for source in sources), Counter[Reason]())
    raise DataError(
        f"{num_kept} texts of {', '.join(source.name for source in sources)} are left for the router, which needs "
        f"{num_needed}; of {sum(source.num_records for source in sources)} records were left out: "
        f"{', '.join(f'{number} ({REASONS[reason]})' for reason, number in dropped.items()) or 'none'}",
        where=where,
        remedy=remedy,
    )
