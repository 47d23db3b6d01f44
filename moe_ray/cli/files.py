"""Commands about experiment files: init, list, schema and data prepare."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from moe_ray.cli.terminal import output_console
from moe_ray.config.dump import schema_text, schema_uri, starter_text
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import UserError


def write_starter(file: Path) -> None:
    """Write the starter experiment; an existing file is never overwritten."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as opened:
            opened.write(f"# yaml-language-server: $schema={schema_uri()}\n{starter_text()}")
    except FileExistsError as error:
        raise UserError("exists already", where=str(file), remedy="name another file, or remove this one") from error
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(file), remedy="name another file") from error
    console = output_console(soft_wrap=True)
    console.print(f"Wrote {file}. Edit it, then:\n  moe-ray plan {file}\n  moe-ray evaluate {file}")


def print_schema() -> None:
    """Print the schema of experiment files, as its file in the package holds it."""
    output_console(soft_wrap=True).print(schema_text(), end="")


def prepare_data(experiment: LoadedExperiment, out: Path, max_examples: int) -> None:
    """Write the prepared records of every domain below `out`, and say what no tool can fetch."""
    from moe_ray.domains.prepare import FETCH_BY_HAND, prepare_domain

    console = output_console(soft_wrap=True)
    for name, domain in experiment.config.domains.items():
        done = prepare_domain(name, domain, experiment.base_dir, out, limit=max_examples)
        console.print(f"{name}: {done.num_examples} of {done.num_available} examples in {done.path}")
    console.print(f"Name a file in data.source to run without a network, such as ./{out}/NAME.jsonl.")
    console.print("To be fetched by hand:")
    for line in FETCH_BY_HAND:
        console.print(f"  - {line}")


Kind = Literal["tasks", "graders", "engines", "routers"]
_ROUTERS = {
    "transformer": "an encoder with a classification head, DistilBERT by default",
    "tfidf": "word statistics and logistic regression",
    "embedding": "a small gating network on a causal model's mean input embeddings",
}
# Written as module:Class, a task, grader or engine of one's own needs no registration.
Entry = dict[str, Any]


def show_names(kind: Kind, *, as_json: bool) -> None:
    """Print the names of one kind: as lines, or as one JSON list."""
    entries = list({"tasks": _tasks, "graders": _graders, "engines": _engines, "routers": _routers}[kind]())
    console = output_console(soft_wrap=True)
    if as_json:
        console.print(json.dumps(entries))
        return
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        console.print(f"{entry['name']:{width}}  {entry['does']}")
        for key, value in entry.items():
            if key not in ("name", "does") and value:
                console.print(f"{'':{width}}  {key}: {_told(value)}")


def _told(value: Mapping[str, str] | Iterable[str]) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} ({meaning})" if meaning else name for name, meaning in value.items())
    return ", ".join(value)


def _tasks() -> Iterator[Entry]:
    from moe_ray.domains.registry import TASKS, task_class

    for name in TASKS.names:
        kind: Any = task_class(name, where="list")
        yield {
            "name": name,
            "does": _summary(kind),
            "roles": sorted(getattr(kind, "roles", ())),
            "settings": sorted(getattr(kind, "known_settings", ())),
            "graders": list(kind.default_graders),
        }


def _graders() -> Iterator[Entry]:
    from moe_ray.config.schema import DataConfig, DecodingConfig, DomainConfig, SandboxConfig
    from moe_ray.scoring.registry import EVALUATE_PREFIX, GRADERS, NEEDS_LIKELIHOOD, make_graders

    domain = DomainConfig(task="free_text", data=DataConfig(source="./none.jsonl"))
    for name in GRADERS.names:
        (grader,) = make_graders([name], domain, DecodingConfig(), SandboxConfig(), base_dir=Path())
        yield {
            "name": name,
            "does": _summary(type(grader)),
            "metrics": {metric.name: metric.definition for metric in grader.metrics},
            "needs": ["likelihood: true"] if name in NEEDS_LIKELIHOOD else [],
        }
    yield {"name": f"{EVALUATE_PREFIX}NAME", "does": "A metric of the evaluate library, or of a script: ./FILE.py."}


def _engines() -> Iterator[Entry]:
    from moe_ray.engines.registry import ENGINE_SETTINGS

    for name, settings in sorted(ENGINE_SETTINGS.items()):
        fields = {key: field.description or "" for key, field in settings.model_fields.items()}
        yield {"name": name, "does": _summary(settings), "settings": fields}


def _routers() -> Iterator[Entry]:
    from moe_ray.config.schema import RouterConfig

    for name in get_args(RouterConfig.model_fields["kind"].annotation):
        yield {"name": name, "does": _ROUTERS[name]}


def _summary(kind: type) -> str:
    """The first sentence of a class's docstring."""
    return " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())
