"""Checks between the keys of an experiment."""

import re
from collections.abc import Iterable, Iterator

from moe_ray.config.problems import Problem
from moe_ray.config.schema import OTHER, DomainConfig, ExperimentConfig, RouterConfig
from moe_ray.suggestions import suggestion

PUBLISHED_TASKS = ("pubmedqa", "law_stackexchange", "mbpp", "coding", "math", "reasoning")
OWN_TASKS = ("decision", "free_text", "code")
ENGINES = ("transformers", "endpoint", "server", "scripted")

_CLASS = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


def cross_problems(config: ExperimentConfig) -> list[Problem]:
    """Return what is wrong between keys that are each right in themselves."""
    problems = [*_model_names(config), *_engines(config), *_tasks(config), *_router(config)]
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


def unused_template(name: str, config: ExperimentConfig) -> str | None:
    """Say for which models `prompt.template` has no effect on domain `name`; None where all use it.

    It is the chat style's. Only the tasks that ship are judged: another may use it as it likes.
    """
    domain = config.domains[name]
    if domain.prompt.template is None or domain.prompt.completion_template is not None or ":" in domain.task:
        return None
    completing = [model for model in config.models_of(name) if config.models[model].prompt_style == "completion"]
    if not completing:
        return None
    return f"prompt.template is for prompt_style chat; {', '.join(completing)} get the task's own completion prompt"


def chats(name: str, config: ExperimentConfig) -> bool:
    """Say whether a model of the chat style answers domain `name`."""
    return any(config.models[model].prompt_style == "chat" for model in config.models_of(name))


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


def _router(config: ExperimentConfig) -> Iterator[Problem]:
    router = config.router
    if router is None:
        return
    if len(config.domains) < 2:
        what = f"a router chooses between domains, and there is {len(config.domains)}"
        yield Problem(path=("router",), what=what, remedy="add a domain, or remove the section router")
    if OTHER in config.domains:
        what = f"beside a router, no domain may be named {OTHER}: that name is reserved for out-of-domain queries"
        yield Problem(path=("domains", OTHER), what=what, remedy="give the domain another name")
    for name in router.data:
        if name not in config.domains:
            what = f"no domain is named {name}{suggestion(name, config.domains)}"
            yield Problem(path=("router", "data", name), what=what, remedy=f"domains: {', '.join(config.domains)}")
    yield from _router_keys(router)
    if router.out_of_domain.score == "other_probability" and not any(texts.use == "train" for texts in router.other):
        what = "other_probability needs queries of no domain to learn from"
        yield Problem(path=("router", "out_of_domain", "score"), what=what, remedy="name some under router.other")


def _router_keys(router: RouterConfig) -> Iterator[Problem]:
    """Keys that the kind of router, or its other keys, leave without a meaning."""
    given = [name for name in ("base_model", "from_scratch", "architecture", "tokenizer") if getattr(router, name)]
    if router.path is not None and given:
        what = f"a router that is trained already (path) takes no {given[0]}"
        yield Problem(path=("router", given[0]), what=what, remedy="remove one of the two")
    allowed = {"transformer": given, "embedding": ["base_model"], "tfidf": []}[router.kind]
    for name in given:
        if name not in allowed:
            what = f"kind {router.kind} takes no {name}"
            yield Problem(path=("router", name), what=what, remedy="remove it, or choose another kind")
    if router.architecture is not None and (router.base_model or router.from_scratch):
        what = "architecture replaces a base model"
        yield Problem(path=("router", "architecture"), what=what, remedy="remove it, or base_model and from_scratch")
    if router.architecture is None and router.tokenizer is not None:
        what = "tokenizer goes with architecture; a base model brings its own"
        yield Problem(path=("router", "tokenizer"), what=what, remedy="remove it, or give an architecture")
