"""What must hold between the keys of an experiment."""

import re
from collections.abc import Iterable, Iterator

from moe_ray.config.problems import Problem, suggestion
from moe_ray.config.schema import DomainConfig, ExperimentConfig

PUBLISHED_TASKS = ("pubmedqa", "law_stackexchange", "mbpp")
OWN_TASKS = ("decision", "free_text", "code")
ENGINES = ("transformers", "endpoint", "server", "scripted")

_CLASS = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


def cross_problems(config: ExperimentConfig) -> list[Problem]:
    """Return what is wrong between keys that are each right in themselves."""
    problems = [*_model_names(config), *_engines(config), *_tasks(config)]
    return problems or [*_unanswered(config), *_unused(config)]


def _model_names(config: ExperimentConfig) -> Iterator[Problem]:
    named = [(("baseline",), config.baseline)]
    named += [(("domains", name, "expert"), domain.expert) for name, domain in config.domains.items()]  # type: ignore[misc]
    for path, name in named:
        if name is not None and name not in config.models:
            what = f"no model is named {name}{suggestion(name, config.models)}"
            yield Problem(path=path, what=what, remedy=f"models: {', '.join(config.models)}")


def _engines(config: ExperimentConfig) -> Iterator[Problem]:
    for name, model in config.models.items():
        if model.engine not in ENGINES and not _CLASS.match(model.engine):
            yield _unknown_kind(("models", name, "engine"), "engine", model.engine, ENGINES)


def _tasks(config: ExperimentConfig) -> Iterator[Problem]:
    for name, domain in config.domains.items():
        if domain.task not in PUBLISHED_TASKS + OWN_TASKS and not _CLASS.match(domain.task):
            yield _unknown_kind(("domains", name, "task"), "task", domain.task, PUBLISHED_TASKS + OWN_TASKS)
        yield from _choices(name, domain)


def _unknown_kind(path: tuple[str, ...], word: str, given: str, known: Iterable[str]) -> Problem:
    what = f"unknown {word} {given or '(empty)'}{suggestion(given, known)}"
    return Problem(path=path, what=what, remedy=f"{word}s: {', '.join(known)}, or a class of yours as module:Class")


def _choices(name: str, domain: DomainConfig) -> Iterator[Problem]:
    path = ("domains", name, "choices")
    if domain.task == "decision" and len(domain.choices) < 2:
        what = f"a decision needs at least two choices, and has {len(domain.choices)}"
        yield Problem(path=path, what=what, remedy="list the labels: choices: [yes, no, maybe]")
    elif domain.choices and domain.task in (*PUBLISHED_TASKS, "free_text", "code"):
        yield Problem(
            path=path, what=f"task {domain.task} takes no choices", remedy="remove them, or use task: decision"
        )
    if len({choice.strip().lower() for choice in domain.choices} - {""}) < len(domain.choices):
        yield Problem(path=path, what="a choice is empty or given twice (capitals make no difference)")


def _unanswered(config: ExperimentConfig) -> Iterator[Problem]:
    for name in config.domains:
        if not config.models_of(name):
            remedy = f"name a model under baseline or domains.{name}.expert, or write matrix: full"
            yield Problem(path=("domains", name), what="no model answers this domain", remedy=remedy)


def _unused(config: ExperimentConfig) -> Iterator[Problem]:
    used = {name for domain in config.domains for name in config.models_of(domain)}
    for name in config.models:
        if name not in used:
            remedy = "make it the baseline or a domain's expert, write matrix: full, or remove it"
            yield Problem(path=("models", name), what="this model answers no domain", remedy=remedy)
