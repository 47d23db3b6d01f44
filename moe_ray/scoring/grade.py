"""All answers of a run to all scores: exactly one for each (model, domain, example, metric) that was asked."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from moe_ray.domains.example import Example
from moe_ray.errors import ConfigError
from moe_ray.scoring.score import BatchGrader, Grader, Metric, Score
from moe_ray.store.answers import Answer

Item = tuple[Example, str, Sequence[Answer]]


def grade_run(
    examples: Mapping[str, Sequence[Example]],
    graders: Mapping[str, Sequence[Grader]],
    assignments: Mapping[str, Sequence[str]],
    answers: Sequence[Answer],
) -> tuple[list[Score], dict[str, Metric]]:
    """Return the scores, and their metrics by name.

    `examples`, `graders` and `assignments` (the models that answer) are by domain. An example without an answer gets
    scores without a value ("no answer"); answers of models, domains or examples that were not asked are left out.
    Scores come in the order of domains, graders, models, examples and metrics.

    Raises `ConfigError` when two domains define one metric differently.
    """
    by_cell: defaultdict[tuple[str, str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        by_cell[answer.domain, answer.model, answer.example_id].append(answer)
    scores: list[Score] = []
    for domain, domain_examples in examples.items():
        items = [
            (example, model, by_cell.get((domain, model, example.id), ()))
            for model in assignments.get(domain, ())
            for example in domain_examples
        ]
        for grader in graders.get(domain, ()):
            scores.extend(_grade(grader, items))
    return scores, merge_metrics(graders)


def merge_metrics(graders: Mapping[str, Sequence[Grader]]) -> dict[str, Metric]:
    """Return the metrics of all domains by name. Raises `ConfigError` when one name means two things."""
    merged: dict[str, Metric] = {}
    for domain, domain_graders in graders.items():
        for metric in (metric for grader in domain_graders for metric in grader.metrics):
            if merged.setdefault(metric.name, metric) != metric:
                raise ConfigError(
                    f"metric {metric.name} has another definition in an earlier domain: "
                    f"{merged[metric.name].definition!r}, not {metric.definition!r}",
                    where=f"domains.{domain}.graders",
                    remedy="give one of the two metrics another name (the file name of an evaluate script)",
                )
    return merged


def _grade(grader: Grader, items: Sequence[Item]) -> Iterator[Score]:
    names = [metric.name for metric in grader.metrics]
    rows = grader.grade_many(items) if isinstance(grader, BatchGrader) else (grader.grade(*item) for item in items)
    for (example, model, _), row in zip(items, rows, strict=True):
        if [score.metric for score in row] != names:
            raise ValueError(f"{type(grader).__name__} gave other scores than {names} for {model} on {example.id}")
        yield from row
