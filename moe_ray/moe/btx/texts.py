"""Read the texts of each expert, without duplicates, and hold some of them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import DataConfig, DomainConfig, OtherTextsConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import load_domain
from moe_ray.domains.registry import importable, task_class
from moe_ray.domains.sources import resolve_path
from moe_ray.errors import ConfigError
from moe_ray.moe.btx.request import TextsConfig
from moe_ray.texts.cleaning import Candidate, TextSource
from moe_ray.texts.corpus import Shares, make_corpus, require_texts
from moe_ray.texts.labelled import LabelledText
from moe_ray.texts.similarity import normal_form, without_affixes
from moe_ray.texts.sources import free_name, labelled_source, set_name

MIN_TEXTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTexts:
    """One expert's texts, ordered by a hash. `train` and `held_out` share no duplicates or near duplicates.

    The same share of each source is held out.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def read_expert_texts(
    experts: Mapping[str, Sequence[TextsConfig]], base_dir: Path, *, held_out_fraction: float
) -> dict[str, ExpertTexts]:
    """Read each expert's texts. Relative paths are resolved against `base_dir`.

    Near duplicates and texts shared by two experts are dropped. Raises `DataError` for a data set that cannot be read
    or that leaves an expert fewer than `MIN_TEXTS` texts, and `ConfigError` for an unknown domain.
    """
    sources: list[TextSource] = []
    for expert, sets in experts.items():
        for at, texts in enumerate(sets):
            taken = {source.name for source in sources}
            sources.append(_source(expert, texts, f"experts.{expert}.{at}", base_dir, taken))
    corpus = make_corpus(
        sources,
        require=lambda reports: require_texts(experts, reports, minimum=MIN_TEXTS, key="experts"),
        shares=Shares(test=held_out_fraction),
        within="source",
    )
    train, held_out = (
        {expert: tuple(text.text for text in part if text.label == expert) for expert in experts}
        for part in (corpus.splits.train, corpus.splits.test)
    )
    return {expert: ExpertTexts(train=train[expert], held_out=held_out[expert]) for expert in experts}


def _source(expert: str, texts: TextsConfig, where: str, base_dir: Path, taken: set[str]) -> TextSource:
    if texts.experiment is not None:
        return _experiment_source(expert, texts, where, base_dir, taken)
    asked = texts.model_dump(include=set(OtherTextsConfig.model_fields), exclude_none=True)
    column = OtherTextsConfig.model_validate(asked)
    name = free_name(set_name(column), taken)
    if texts.task is None:
        return labelled_source(name, expert, column, where, base_dir)
    with importable(base_dir):
        task_class(texts.task, where=f"{where}.task")
    data = DataConfig.model_validate(texts.model_dump(include=set(DataConfig.model_fields), exclude_none=True))
    return _examples_source(name, expert, texts, DomainConfig(task=texts.task, data=data), base_dir)


def _experiment_source(expert: str, texts: TextsConfig, where: str, base_dir: Path, taken: set[str]) -> TextSource:
    experiment = load_experiment(resolve_path(str(texts.experiment), base_dir))
    domains = experiment.config.domains
    if texts.domain not in domains:
        raise ConfigError(
            f"{experiment.path.name} has no domain {texts.domain}",
            where=f"{where}.domain",
            remedy=f"name one of {', '.join(domains)}",
        )
    name = free_name(texts.domain, taken)
    return _examples_source(name, expert, texts, domains[texts.domain], experiment.base_dir)


def _examples_source(name: str, expert: str, texts: TextsConfig, domain: DomainConfig, base_dir: Path) -> TextSource:
    """Return a domain's examples as texts. Their common template is ignored when duplicates are detected."""
    examples = load_domain(name, domain, base_dir).examples
    written = [example_text(example) for example in examples]
    forms = without_affixes([normal_form(text) for text in written])
    candidates = [
        Candidate(
            text=LabelledText(id=f"{expert}/{name}/{example.id}", text=text, label=expert, source=name), form=form
        )
        for example, text, form in zip(examples, written, forms, strict=True)
    ]
    return TextSource(name=name, label=expert, use="train", limit=texts.max_texts, candidates=candidates)


def example_text(example: Example) -> str:
    """Return the training text of an example: its completion prompt, followed by its reference."""
    prompt = example.prompts["completion"]
    continuation = f" {example.reference}" if prompt.reference is None else prompt.reference
    return "".join(message.content for message in prompt.messages) + continuation
