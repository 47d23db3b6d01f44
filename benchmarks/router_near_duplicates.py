"""How many queries of real data sets are there twice, and whether one is left on both sides of a split.

    python -m benchmarks.router_near_duplicates --data DATA [--max-records 2000] [--minhash]

DATA holds router/reddit_prompts.jsonl and the folders biomedical, legal, code and ood. For each collection the texts
are drawn as a router's are, with 100 examples of each domain for the run. Then all pairs of texts are compared, by a
plain implementation that shares nothing with the package's: pairs that are equal, or nearly so, within one part
(train, validation, test, the run's examples, an out-of-domain set) and across two. "before": the same split, nothing
removed. `--minhash` adds how MinHash with a locality-sensitive index (the package datasketch) does on the same texts.
Exits with 1 when any pair is left after cleaning.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy import sparse

from benchmarks.machine import machine_line
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import OTHER
from moe_ray.domains.example import query_of
from moe_ray.domains.loading import load_domain
from moe_ray.runs.wanted_router import RouterData, read_texts
from moe_ray.texts.corpus import split_texts
from moe_ray.texts.labelled import LabelledText, RouterTexts, splits_of
from moe_ray.texts.similarity import NearIndex, normal_form, shingles
from moe_ray.texts.sources import domain_source, other_sources
from tests.support.near_duplicates import NEAR, same_key, shingle_set

NUM_RUN_EXAMPLES = 100
NUM_OUT_OF_DOMAIN = 1000
ROWS_AT_ONCE = 1000

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A text in its part: train, validation, test, run or an out-of-domain set."""

    part: str
    text: str


class Pairs(NamedTuple):
    """Pairs of texts that are equal, or nearly equal and not equal, within one part and across two."""

    same_within: int
    same_across: int
    near_within: int
    near_across: int


def near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield all pairs whose Jaccard similarity is 0.7 or more: counts of common shingles as a sparse product."""
    places: dict[tuple[str, ...], int] = {}
    columns = [[places.setdefault(each, len(places)) for each in shingle_set(text)] for text in texts]
    starts = np.cumsum([0, *map(len, columns)])
    flat = np.array([column for row in columns for column in row], dtype=np.int64)
    matrix = sparse.csr_matrix((np.ones(len(flat), dtype=np.int32), flat, starts), shape=(len(texts), len(places)))
    sizes, transposed = np.diff(starts), matrix.T.tocsc()
    for start in range(0, len(texts), ROWS_AT_ONCE):
        common = (matrix[start : start + ROWS_AT_ONCE] @ transposed).tocoo()
        first, second = common.row + start, common.col
        either = sizes[first] + sizes[second] - common.data
        near = (common.data * NEAR.denominator >= either * NEAR.numerator) & (first < second)
        yield from zip(first[near].tolist(), second[near].tolist(), strict=True)


def count_pairs(rows: Sequence[Row]) -> Pairs:
    """Compare all rows with all. Pairs inside of the run's examples, which stay as they are, do not count."""
    keys = [same_key(row.text) for row in rows]
    counts = {(same, across): 0 for same in (True, False) for across in (True, False)}
    for first, second in near_pairs([row.text for row in rows]):
        across = rows[first].part != rows[second].part
        if across or rows[first].part != "run":
            counts[keys[first] == keys[second], across] += 1
    return Pairs(counts[True, False], counts[True, True], counts[False, False], counts[False, True])


def rows_of(texts: RouterTexts, run: Sequence[str]) -> list[Row]:
    """All texts of a router and of the run, each in its part."""
    groups = [*splits_of(texts), *texts.out_of_domain.items()]
    return [Row(part=name, text=text.text) for name, group in groups for text in group] + [
        Row(part="run", text=text) for text in run
    ]


def uncleaned(experiment: LoadedExperiment, run: Mapping[str, Sequence[Any]]) -> list[Row]:
    """The same records, split in the same way, with only the ids of the run's examples left out."""
    router = experiment.config.router
    assert router is not None
    sources = [
        domain_source(name, domain, router, run[name], experiment.base_dir)[0]
        for name, domain in experiment.config.domains.items()
    ]
    sources += other_sources(router, experiment.base_dir)
    by_label: dict[str, list[LabelledText]] = {}
    out_of_domain: dict[str, tuple[LabelledText, ...]] = {}
    for source in sources:
        there = [each.text for each in source.candidates if each.form and not each.is_of_run][: source.limit]
        if source.use == "test":
            out_of_domain[source.name] = tuple(there)
        else:
            by_label.setdefault(source.label, []).extend(there)
    splits = split_texts(
        by_label.values(), test_fraction=router.test_fraction, validation_fraction=router.validation_fraction
    )
    texts = RouterTexts(labels=tuple(by_label), **splits._asdict(), out_of_domain=out_of_domain)
    return rows_of(texts, queries_of(run, router.query))


def queries_of(run: Mapping[str, Sequence[Any]], query: str) -> list[str]:
    return [query_of(example, query) for examples in run.values() for example in examples]


def collections(data: Path, max_records: int | None) -> dict[str, dict[str, list[Record]]]:
    """Real queries by collection and label, as records with question and reference."""

    def lines(path: str) -> list[Record]:
        return [json.loads(line) for line in (data / path).read_text(encoding="utf-8").splitlines() if line.strip()]

    def made(records: Sequence[Record], text: Callable[[Record], str]) -> list[Record]:
        return [{"id": str(at), "question": text(record), "reference": "-"} for at, record in enumerate(records)][
            :max_records
        ]

    prompts = lines("router/reddit_prompts.jsonl")
    pubmedqa = json.loads((data / "biomedical/pubmedqa_dev500.json").read_text(encoding="utf-8"))
    alpaca = json.loads((data / "code/new_codealpaca.json").read_text(encoding="utf-8"))
    return {
        "prompts of the forums": {
            label: made([p for p in prompts if p["domain"] == label], lambda p: f"{p['title']}\n\n{p['selftext']}")
            for label in ("biomedical", "legal", "code", OTHER)
        },
        "the domains' own questions": {
            "biomedical": made(list(pubmedqa.values()), lambda record: record["QUESTION"]),
            "legal": made(lines("legal/indian_statute_qa.jsonl"), lambda record: record["question"]),
            "code": made(lines("code/mbpp_train_prompt474.jsonl"), lambda record: record["text"]),
            OTHER: made(lines("ood/gsm8k_train.jsonl"), lambda record: record["question"]),
        },
        "more questions": {
            "biomedical": made(lines("biomedical/medquad_4000.jsonl"), lambda record: record["question"]),
            "legal": made(lines("legal/learned_hands_posts.jsonl"), lambda record: record["text"]),
            "code": made(alpaca, lambda record: f"{record['instruction']}\n{record['input']}"),
        },
    }


def write_experiment(folder: Path, by_label: Mapping[str, Sequence[Record]], out_of_domain: Path) -> LoadedExperiment:
    """Write records and an experiment whose router learns to tell them apart."""
    for label, records in by_label.items():
        (folder / f"{label}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    other: list[Record] = [{"source": str(out_of_domain.resolve()), "use": "test", "max_texts": NUM_OUT_OF_DOMAIN}]
    if OTHER in by_label:
        other.append({"source": f"./{OTHER}.jsonl", "column": "question"})
    experiment = {
        "name": "near-duplicates",
        "models": {"base": {"path": "./base", "engine": "scripted", "engine_settings": {"text": "-"}}},
        "baseline": "base",
        "domains": {
            label: {
                "task": "free_text",
                "data": {"source": f"./{label}.jsonl"},
                "max_examples": min(NUM_RUN_EXAMPLES, len(records) // 2),
            }
            for label, records in by_label.items()
            if label != OTHER
        },
        "router": {"kind": "tfidf", "other": other},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return load_experiment(path)


def measure(title: str, experiment: LoadedExperiment) -> list[Row]:
    """Print what is there before and after cleaning; return the rows that are left."""
    domains = experiment.config.domains
    run = {name: load_domain(name, domain, experiment.base_dir).examples for name, domain in domains.items()}
    before = uncleaned(experiment, run)
    started = time.perf_counter()
    data: RouterData = read_texts(experiment, run)
    seconds = time.perf_counter() - started
    after = rows_of(data.texts, queries_of(run, "question"))
    print(f"\n{title}: {len(before):,} texts, read and cleaned in {seconds:.1f} s")
    print(f"{'':8}{'texts':>8}{'same, one part':>16}{'same, across':>14}{'near, one part':>16}{'near, across':>14}")
    for name, rows in (("before", before), ("after", after)):
        print(
            f"{name:8}{len(rows):8,}"
            + "".join(f"{n:{w},}" for n, w in zip(count_pairs(rows), (16, 14, 16, 14), strict=True))
        )
    for source in data.report.sources:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(source.dropped.items()))
        print(f"  {source.name}: {source.num_kept:,} of {source.num_records:,} kept; left out: {reasons or 'none'}")
    return after


def compare_with_minhash(texts: Sequence[str]) -> None:
    """Print how many near pairs MinHash finds of those that there are, and both times, on the same normal forms."""
    from datasketch import MinHash, MinHashLSH

    forms = list(dict.fromkeys(map(normal_form, texts)))
    expected = set(near_pairs(forms))
    started = time.process_time()
    index, num_found = NearIndex(map(shingles, forms[:5000])), 0
    for at, form in enumerate(forms):
        own = shingles(form)
        num_found += len(index.near(own))
        index.add(at, own)
    own_s, started = time.process_time() - started, time.process_time()
    lsh, blank, found = MinHashLSH(threshold=0.7, num_perm=128), MinHash(num_perm=128), set()
    for at, form in enumerate(forms):
        minhash = blank.copy()
        minhash.update_batch([" ".join(each).encode() for each in shingle_set(form)])
        found |= {(other, at) for other in lsh.query(minhash)}
        lsh.insert(at, minhash)
    lsh_s = time.process_time() - started
    print(
        f"  {len(expected):,} near pairs of {len(forms):,} texts: the index finds {num_found:,} in {own_s:.1f} s (CPU)"
    )
    print(f"  MinHash: {len(found & expected):,} of them, with {len(found):,} candidates, in {lsh_s:.1f} s (CPU)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--max-records", type=int, help="records of each label; default: all")
    parser.add_argument("--minhash", action="store_true")
    arguments = parser.parse_args()
    print(machine_line("scipy", "numpy"))
    num_left = 0
    for title, by_label in collections(arguments.data, arguments.max_records).items():
        with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
            out_of_domain = arguments.data / "ood/banking77_train.csv"
            experiment = write_experiment(Path(folder), by_label, out_of_domain)
            num_left += sum(count_pairs(measure(title, experiment)))
            if arguments.minhash:
                compare_with_minhash([record["question"] for records in by_label.values() for record in records])
    print(f"\n{num_left} pairs are left after cleaning: {'LEAK' if num_left else 'none crosses a split'}")
    return 1 if num_left else 0


if __name__ == "__main__":
    sys.exit(main())
