"""The answers that the report carries: compressed, safe whatever a model wrote, opened a page at a time."""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from moe_ray.comparison.records import Summary
from moe_ray.domains.example import Example
from moe_ray.report.format import words
from moe_ray.scoring.score import Score

MAX_ANSWERS = 20_000
ANSWER_COLUMNS = (
    "kind", "model", "domain", "example_id", "sample_index", "messages", "text", "finish_reason", "error",
    "num_truncated_tokens", "num_completion_tokens", "batch_rows", "total_s",
)  # fmt: skip

ScoresByExample = Mapping[tuple[str, str, str], Sequence[Score]]


class Texts:
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


def browser_payload(
    summary: Summary, answers: pa.Table, examples: Mapping[str, Sequence[Example]], scores: Iterable[Score]
) -> dict[str, Any]:
    """What the page's script reads.

    Of more than MAX_ANSWERS answers, those to a part of the examples are kept, drawn by a hash of their ids, so that
    every model's answer to a kept example is there. `total` says how many there were.
    """
    generated = answers.select(list(ANSWER_COLUMNS)).filter(pc.equal(answers.column("kind"), "generate"))
    kept = _limited(generated).sort_by([("domain", "ascending"), ("example_id", "ascending"), ("model", "ascending")])
    texts = Texts()
    found = _scores_by_example(scores)
    rows = [_answer_row(summary, texts, found, row) for row in kept.to_pylist()]
    references = {
        f"{domain}/{example.id}": texts.place(example.reference) for domain in examples for example in examples[domain]
    }
    shown = {f"{row['d']}/{row['e']}" for row in rows}
    return {
        "total": generated.num_rows,
        "texts": texts.texts,
        "references": {key: place for key, place in references.items() if key in shown},
        "answers": rows,
    }


def encoded(payload: Mapping[str, Any]) -> str:
    """`payload` as base64 of gzip of JSON: letters, digits, +, / and = only, which no answer can break out of."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(errors="surrogatepass"), compresslevel=6, mtime=0)).decode()


def _limited(answers: pa.Table) -> pa.Table:
    if answers.num_rows <= MAX_ANSWERS:
        return answers
    names = pc.binary_join_element_wise(answers.column("domain"), answers.column("example_id"), "/")
    counts = {item["values"]: item["counts"] for item in pc.value_counts(names).to_pylist()}
    kept, num_kept = [], 0
    for name in sorted(counts, key=lambda name: hashlib.sha256(name.encode()).digest()):
        num_kept += counts[name]
        if num_kept > MAX_ANSWERS:
            break
        kept.append(name)
    return answers.filter(pc.is_in(names, pa.array(kept, pa.string())))


def _scores_by_example(scores: Iterable[Score]) -> dict[tuple[str, str, str], list[Score]]:
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        found.setdefault((score.model, score.domain, score.example_id), []).append(score)
    return found


def _answer_row(summary: Summary, texts: Texts, scores: ScoresByExample, row: Mapping[str, Any]) -> dict[str, Any]:
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
