"""Sources of a router's texts: the records of its domains, and out-of-domain queries."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from moe_ray.config.schema import OTHER, DataConfig, DomainConfig, OtherTextsConfig, RouterConfig, is_local_path
from moe_ray.domains.example import Example, Record, query_of
from moe_ray.domains.loading import load_domain
from moe_ray.domains.record_task import MISSING, is_empty, value_at
from moe_ray.domains.sources import ReadSource, read_source
from moe_ray.errors import DataError, UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.prompts.messages import as_text
from moe_ray.texts.cleaning import Candidate, TextSource
from moe_ray.texts.labelled import LabelledText
from moe_ray.texts.similarity import normal_form, without_affixes

_MAX_NAME = 48
_NUM_HEX_OF_TEXT_ID = 16


def domain_source(
    name: str,
    domain: DomainConfig,
    router: RouterConfig,
    run_examples: Sequence[Example],
    base_dir: Path,
    read: ReadSource = read_source,
) -> tuple[TextSource, list[str]]:
    """Return the texts of a domain, and the forms of the run's queries of the domain.

    With `query: prompt` the domain's template is removed from the forms; otherwise all of them would be similar. Raises
    what `load_domain` raises.
    """
    data = router.data.get(name)
    examples = _all_examples(name, domain, data, base_dir, read)
    queries = [query_of(example, router.query) for example in (*run_examples, *examples)]
    forms = [normal_form(query) for query in queries]
    if router.query == "prompt":
        forms = without_affixes(forms)
    run_ids = {example.id for example in run_examples}
    source = set_name(data or domain.data)
    candidates = [
        Candidate(
            text=LabelledText(id=f"{name}/{example.id}", text=query, label=name, source=source),
            form=form,
            is_of_run=example.id in run_ids,
        )
        for example, query, form in zip(examples, queries[len(run_examples) :], forms[len(run_examples) :], strict=True)
    ]
    made = TextSource(name=name, label=name, use="train", limit=router.max_texts_per_domain, candidates=candidates)
    return made, forms[: len(run_examples)]


def _all_examples(
    name: str, domain: DomainConfig, data: DataConfig | None, base_dir: Path, read: ReadSource
) -> tuple[Example, ...]:
    """Return all examples of the router's data for a domain, or else of the domain's full data."""
    whole = domain.data.model_copy(update={"ids_file": None})
    config = domain.model_copy(update={"max_examples": None, "data": data or whole})
    try:
        return load_domain(name, config, base_dir, read).examples
    except UserError as error:
        if data is not None and error.where == f"domains.{name}.data":
            error.where = f"router.data.{name}"
        raise


def other_sources(router: RouterConfig, base_dir: Path, read: ReadSource = read_source) -> Iterator[TextSource]:
    """Yield the out-of-domain sets. Raises `DataError` for a set without its column."""
    taken: set[str] = set()
    for at, texts in enumerate(router.other):
        name = free_name(set_name(texts), taken)
        taken.add(name)
        yield labelled_source(name, OTHER, texts, f"router.other.{at}", base_dir, read)


def labelled_source(
    name: str, label: str, texts: OtherTextsConfig, where: str, base_dir: Path, read: ReadSource = read_source
) -> TextSource:
    """Return the texts of a set, all with `label`. Raises `DataError` for a set without its column.

    `where` is the set's config key.
    """
    candidates = []
    for record in read(data_of(texts), base_dir).records:
        text = _query_in(record, texts.column, where)
        text_id = f"{label}/{name}/{fingerprint(text, num_hex=_NUM_HEX_OF_TEXT_ID)}"
        labelled = LabelledText(id=text_id, text=text, label=label, source=name)
        candidates.append(Candidate(text=labelled, form=normal_form(text)))
    return TextSource(name=name, label=label, use=texts.use, limit=texts.max_texts, candidates=candidates)


def data_of(texts: OtherTextsConfig) -> DataConfig:
    """Return the data set that a set of texts is read from."""
    return DataConfig(source=texts.source, subset=texts.subset, split=texts.split, revision=texts.revision)


def _query_in(record: Record, column: str, where: str) -> str:
    value = value_at(record, column)
    if value is MISSING:
        raise DataError(
            f"a record has no column {column}",
            where=f"{where}.column",
            remedy=f"name the column that holds the query; this record has {', '.join(record)}",
        )
    if is_empty(value):
        return ""
    if isinstance(value, list | tuple | Mapping):
        raise DataError(
            f"column {column} holds {type(value).__name__}, not a text",
            where=f"{where}.column",
            remedy="name a column with one query in each record",
        )
    return as_text(value).strip()


def set_name(data: DataConfig | OtherTextsConfig) -> str:
    """Return a short name of a data set that is a valid file name: a local file's stem, or the hub id's name."""
    path = PurePosixPath(data.source)
    name = path.stem if is_local_path(data.source) else "-".join(filter(None, (path.name, data.subset)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:_MAX_NAME] or "set"


def free_name(name: str, taken: set[str]) -> str:
    """Return `name`, with the first number from 2 on that makes it unique if it is taken."""
    names = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(free for free in names if free not in taken)
