"""From all answers of a run to all scores: exactly one for each requested (model, domain, example, metric)."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from moe_ray.domains.example import Example
from moe_ray.errors import ConfigError, MoeRayError, first_line
from moe_ray.scoring.samples import Item, UnscorableError, unscored
from moe_ray.scoring.score import BatchGrader, Grader, Metric, Score
from moe_ray.store.answers import Answer

# What a grader gets at a time: enough to keep the workers of a batch grader busy, few enough to be in memory.
MAX_ITEMS = 20_000
MAX_REASON_CHARS = 300

# What says nothing of the answer that was being graded: the sandbox is closed, the memory is full.
_ENDS_GRADING = (MoeRayError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainWork:
    """What is to be graded in one domain. `answers_of` gives the answers of one of `models`, in any order.

    A model among `asked` was asked those examples (ids) only; the others were asked all of them.
    """

    examples: Sequence[Example]
    graders: Sequence[Grader]
    models: Sequence[str]
    answers_of: Callable[[str], Iterable[Answer]]
    asked: Mapping[str, Collection[str]] = field(default_factory=dict)


def grade_domain(work: DomainWork) -> Iterator[Score]:
    """Yield the scores of one domain; the answers of one model are in memory at a time.

    An example without an answer gets scores without a value ("no answer"); answers to other examples are left out.
    Scores come in the order of graders, models, examples and metrics, MAX_ITEMS examples of a model at a time. An item
    on which a grader raises something unexpected is left unscored, with what was raised as the reason.
    """
    items = _items(work)
    while batch := list(islice(items, MAX_ITEMS)):
        for grader in work.graders:
            yield from _grade(grader, batch)


def _items(work: DomainWork) -> Iterator[Item]:
    for model in work.models:
        by_example: defaultdict[str, list[Answer]] = defaultdict(list)
        for answer in work.answers_of(model):
            by_example[answer.example_id].append(answer)
        asked = work.asked.get(model)
        for example in work.examples:
            if asked is None or example.id in asked:
                yield example, model, by_example.get(example.id, ())


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
    rows = _rows(grader, items) if isinstance(grader, BatchGrader) else (_row(grader, item) for item in items)
    for row in rows:
        yield from row


def _rows(grader: BatchGrader, items: Sequence[Item]) -> Sequence[Sequence[Score]]:
    """Grade many items at once; halves of them where that raises, down to the item that is at fault."""
    try:
        rows = grader.grade_many(items)
        _require_metrics(grader, rows, len(items))
    except _ENDS_GRADING:
        raise
    except Exception as error:  # noqa: BLE001 - see _unexpected
        if len(items) == 1:
            return [_unexpected(grader, items[0], error)]
        middle = len(items) // 2
        return [*_rows(grader, items[:middle]), *_rows(grader, items[middle:])]
    return rows


def _row(grader: Grader, item: Item) -> Sequence[Score]:
    try:
        row = grader.grade(*item)
        _require_metrics(grader, [row], 1)
    except _ENDS_GRADING:
        raise
    except Exception as error:  # noqa: BLE001 - see _unexpected
        return _unexpected(grader, item, error)
    return row


class _OtherScoresError(Exception):
    """A grader returned other scores than its metrics ask for."""


def _require_metrics(grader: Grader, rows: Sequence[Sequence[Score]], num_items: int) -> None:
    names = [metric.name for metric in grader.metrics]
    if len(rows) != num_items or any([score.metric for score in row] != names for row in rows):
        raise _OtherScoresError(f"gave other scores than {names}")


def _unexpected(grader: Grader, item: Item, error: Exception) -> list[Score]:
    """Leave an item unscored for what its grader raised.

    Graders are also classes of the user's and metrics of other packages, and what they raise on a text that they were
    not written for is not known beforehand. One such answer must not cost the scores of all others, on every rerun.
    """
    example, model, _ = item
    why = str(error) if isinstance(error, _OtherScoresError) else f"raised {type(error).__name__}: {first_line(error)}"
    reason = f"{type(grader).__name__} {why}"[:MAX_REASON_CHARS]
    return unscored(example, model, grader.metrics, UnscorableError(reason))
