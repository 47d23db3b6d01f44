"""The answers embedded in the report: compressed, escaped, shown page by page."""

import base64
import functools
import gzip
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.comparison.records import Summary
from moe_ray.domains.example import Example
from moe_ray.formatting import words
from moe_ray.scoring.score import Score, Scores, score_table, scores_of_table
from moe_ray.store.routes import Routes

MAX_ANSWERS = 20_000
CHOICE_COLUMNS = ("kind", "domain", "example_id")
ANSWER_COLUMNS = (
    "kind", "model", "domain", "example_id", "sample_index", "messages", "text", "finish_reason", "error",
    "num_truncated_tokens", "num_completion_tokens", "batch_rows", "total_s",
)  # fmt: skip

ScoresByExample = Mapping[tuple[str, str, str], Sequence[Score]]


class SharedTexts:
    """Texts that occur often, held once."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int:
        """The index of `text` in `texts`."""
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]


class Chosen(NamedTuple):
    """The examples whose answers the page carries, by domain. `num_generated` counts the answers to all examples."""

    examples: Mapping[str, Sequence[str]]
    num_generated: int

    @property
    def where(self) -> pc.Expression:
        """The rows, of answers or of scores, that are about these examples."""
        places = [
            (pc.field("domain") == domain) & pc.field("example_id").isin(ids) for domain, ids in self.examples.items()
        ]
        return functools.reduce(operator.or_, places, pc.scalar(False))


def choose_examples(answers: pa.Table) -> Chosen:
    """Choose what the page carries, from CHOICE_COLUMNS of all answers.

    Of more than MAX_ANSWERS generated answers, those to a part of the examples are kept, drawn by a hash of their ids,
    so that every model's answer to a kept example is there.
    """
    generated = answers.filter(pc.field("kind") == "generate")
    counted = generated.group_by(["domain", "example_id"]).aggregate([([], "count_all")]).to_pylist()
    kept: dict[str, list[str]] = {}
    num_kept = 0
    for row in sorted(counted, key=_hash_rank) if generated.num_rows > MAX_ANSWERS else counted:
        num_kept += row["count_all"]
        if num_kept > MAX_ANSWERS:
            break
        kept.setdefault(row["domain"], []).append(row["example_id"])
    return Chosen({domain: sorted(kept[domain]) for domain in sorted(kept)}, generated.num_rows)


def _hash_rank(row: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(f"{row['domain']}/{row['example_id']}".encode()).digest()


def browser_payload(
    summary: Summary,
    chosen: Chosen,
    answers: pa.Table,
    examples: Iterable[Example],
    scores: Scores,
    routes: Routes | None = None,
) -> dict[str, Any]:
    """What the page's script reads: of `answers`, `examples`, `scores`, `routes`, what is about the chosen examples.

    `answers` need ANSWER_COLUMNS. `total` says how many generated answers there were in all.
    """
    generated = answers.select(list(ANSWER_COLUMNS)).filter(chosen.where & (pc.field("kind") == "generate"))
    kept = generated.sort_by([("domain", "ascending"), ("example_id", "ascending"), ("model", "ascending")])
    texts = SharedTexts()
    found = _scores_by_example(chosen, scores)
    rows = [_answer_row(summary, texts, found, row) for row in kept.to_pylist()]
    shown = {(domain, example_id) for domain, ids in chosen.examples.items() for example_id in ids}
    references = {
        f"{example.domain}/{example.id}": texts.place(example.reference)
        for example in examples
        if (example.domain, example.id) in shown
    }
    payload = {"total": chosen.num_generated, "texts": texts.texts, "references": references, "answers": rows}
    return payload if routes is None else payload | {"routes": _routes(chosen, routes)}


def _routes(chosen: Chosen, routes: Routes) -> dict[str, list[Any]]:
    """Of each example: the domain that the router found most probable, its probability, and 1 if out-of-domain."""
    confidence, places, out_of_domain = routes.probabilities.max(axis=1), routes.chosen, routes.is_out_of_domain
    return {
        f"{domain}/{example_id}": [
            routes.domains[places[row]],
            round(float(confidence[row]), 4),
            int(out_of_domain[row]),
        ]
        for domain, ids in chosen.examples.items()
        for example_id, row in zip(ids, routes.rows(domain, ids).tolist(), strict=True)
        if row >= 0
    }


def encoded(payload: Mapping[str, Any]) -> str:
    """`payload` as base64 of gzip of JSON: letters, digits, +, / and = only, which no answer can break out of."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="surrogatepass"), compresslevel=6, mtime=0)).decode()


def _scores_by_example(chosen: Chosen, scores: Scores) -> dict[tuple[str, str, str], list[Score]]:
    table = score_table(scores)
    for name in ("domain", "example_id"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores_of_table(table.filter(chosen.where)):
        found.setdefault((score.model, score.domain, score.example_id), []).append(score)
    return found


def _answer_row(
    summary: Summary, texts: SharedTexts, scores: ScoresByExample, row: Mapping[str, Any]
) -> dict[str, Any]:
    mine = scores.get((row["model"], row["domain"], row["example_id"]), ())
    return {
        "d": row["domain"],
        "m": row["model"],
        "e": row["example_id"],
        "i": row["sample_index"],
        "p": texts.place(row["messages"]),
        "t": row["text"] or "",
        "f": row["finish_reason"],
        "x": row["error"],
        "c": row["num_truncated_tokens"],
        "n": row["num_completion_tokens"],
        "b": row["batch_rows"],
        "s": round(row["total_s"], 4),
        "v": verdict_of_scores(summary, mine),
        "g": [_score_row(score) for score in mine],
    }


def _score_row(score: Score) -> list[Any]:
    value = None if score.value is None else float(f"{score.value:.6g}")
    label = f"{score.label or 'none'} (gold {score.gold})" if score.gold is not None else None
    return [words(score.metric), value, label, score.reason or score.detail]


def verdict_of_scores(summary: Summary, scores: Sequence[Score]) -> str:
    """ "right" or "wrong" by the first right/wrong metric, "graded" where there is none, "unscored" without a value."""
    known = {score.metric: score for score in scores}
    metrics = summary.domain_metrics.get(scores[0].domain, []) if scores else []
    ordered = [known[name] for name in metrics if name in known]
    binary = [score for score in ordered if _tells_right(summary, score)]
    if not ordered or (binary or ordered)[0].value is None:
        return "unscored"
    if not binary:
        return "graded"
    return "right" if binary[0].value == 1.0 else "wrong"


def _tells_right(summary: Summary, score: Score) -> bool:
    metric = summary.metrics[score.metric]
    return metric.binary or metric.aggregation == "macro_f1"
