"""The router benchmark's own parts: what is trained on, what is tested, and what is made of the verdicts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from benchmarks.router_accuracy import assembling, cases
from benchmarks.router_accuracy.__main__ import missing_routers
from benchmarks.router_accuracy.agreement import agreement, length_group, surest_mistakes
from benchmarks.router_accuracy.intervals import accuracy_difference, macro_f1_bounds
from benchmarks.router_accuracy.measuring import measure
from benchmarks.router_accuracy.out_of_domain_sets import LEFT_OUT, read_out_of_domain, without_quotes
from benchmarks.router_accuracy.out_of_domain_tables import out_of_domain_tables, unseen_results
from benchmarks.router_accuracy.records import (
    Measurements,
    RunRecord,
    Verdict,
    key_of,
    read_measurements,
    write_measurements,
)
from benchmarks.router_accuracy.routers import ROUTERS, TRIALS
from benchmarks.router_accuracy.sources import LABELS, OWN_SOURCES, read_own, read_prompts, style_only
from benchmarks.router_accuracy.tables import all_tables, failures, missing_runs
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.errors import DataError
from moe_ray.texts.corpus import Splits
from moe_ray.texts.labelled import LabelledText
from moe_ray.texts.similarity import normal_form

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "router").is_dir(), reason="needs ../shared/data")

WORDS = {
    "biomedical": "dose fever lung",
    "legal": "court lease judge",
    "code": "loop list bug",
    OTHER: "cake song goal",
}


def query(label: str, number: int, source: str = "") -> LabelledText:
    words = WORDS[label].split()
    text = f"why {words[number % 3]} {number} and {words[(number + 1) % 3]} x{number * 7}"
    return LabelledText(id=f"{label}-{number}", text=text, label=label, source=source or f"{label}-{number % 4}")


def queries(num_per_label: int) -> list[LabelledText]:
    return [query(label, number) for label in LABELS for number in range(num_per_label)]


def verdict(number: int, predicted: str, *, label: str = "code", confidence: float = 0.5, words: int = 9) -> Verdict:
    return Verdict(id=str(number), source="s", label=label, predicted=predicted, confidence=confidence, num_words=words)


@pytest.fixture(scope="module")
def run() -> RunRecord:
    splits = assembling.split_by_text(queries(60), LABELS)
    texts = assembling.router_texts(
        splits, LABELS, {"chatter": tuple(query(OTHER, n, "chatter") for n in range(900, 930))}
    )
    case = cases.Case(part="noisy", name="all", routers=("tfidf",), build=cases._all_prompts, keep_verdicts=True)
    extra = {"more": tuple(query("legal", number) for number in range(500, 520))}
    case_texts = cases.CaseTexts(texts=texts, extra=extra)
    return measure(case, case_texts, "tfidf", RouterConfig(kind="tfidf"), lambda _: None)


def measurements(*runs: RunRecord) -> Measurements:
    by_key = {key_of(run.part, run.case, run.router): run for run in runs}
    return Measurements(machine="a machine", limits={}, corpora={}, runs=by_key)


def test_style_keeps_length_case_and_punctuation_and_no_word() -> None:
    assert style_only("Why is HIV-1 rising? Überall, 42 %!") == "Xxx xx XXX-0 xxxxxx? Xxxxxxx, 00 %!"


def test_a_post_loses_the_lines_of_others() -> None:
    body = "In article <12@x> bob@y (Bob) writes:\n> old words\n>> older\n\nMy own words.\n| quoted\nMore."
    assert without_quotes("Re: re:  Engines", body) == "Engines\nMy own words.\nMore."


def test_folds_part_the_sources_and_each_holds_every_label() -> None:
    texts = queries(40)
    folds = assembling.folds_of_sources(texts, 3)
    assert Counter(source for fold in folds for source in fold) == Counter({text.source for text in texts})
    assert all({source.split("-")[0] for source in fold} == set(LABELS) for fold in folds)
    assert folds == assembling.folds_of_sources(texts[::-1], 3)


def test_held_out_sources_are_tested_on_and_nothing_else_is() -> None:
    texts = queries(40)
    held_out = assembling.folds_of_sources(texts, 3)[0]
    splits = assembling.hold_out_sources(assembling.split_by_text(texts, LABELS), held_out)
    assert {text.id for text in splits.test} == {text.id for text in texts if text.source in held_out}
    assert not {text.source for text in (*splits.train, *splits.validation)} & held_out


def test_fewer_training_texts_are_among_more_and_the_test_stays() -> None:
    splits = assembling.split_by_text(queries(40), LABELS)
    few, more = assembling.first_texts(splits, 20), assembling.first_texts(splits, 50)
    assert (len(few.train), len(more.train)) == (20, 50)
    assert set(few.train) < set(more.train) < set(splits.train)
    assert few[1:] == more[1:] == splits[1:]


def test_a_label_is_left_out_of_every_split() -> None:
    splits = assembling.without_label(assembling.split_by_text(queries(40), LABELS), OTHER)
    assert all({text.label for text in part} == set(LABELS) - {OTHER} for part in splits)


def test_texts_of_a_corpus_are_there_once_and_out_of_domain_sets_repeat_none() -> None:
    own = [query("code", number) for number in range(30)]
    again = [LabelledText(id=f"again-{text.id}", text=text.text.upper(), label="code") for text in own[:10]]
    out_of_domain = [LabelledText(id=f"unknown-{text.id}", text=text.text, label=OTHER) for text in own[:5]]
    out_of_domain.append(LabelledText(id="new", text="an unheard-of cake of seven songs", label=OTHER))
    corpus = assembling.make_corpus(
        {"own": [*own, *again]}, {"set": out_of_domain}, own_limit=None, out_of_domain_limit=None
    )
    assert len({normal_form(text.text) for text in corpus.all_own}) == len(corpus.all_own) == 30
    assert [text.id for text in corpus.out_of_domain["set"]] == ["new"]
    assert [report.num_records for report in corpus.reports] == [40, 6]


def test_rewriting_changes_every_text_and_no_label() -> None:
    texts = assembling.router_texts(Splits(*(tuple(queries(4)),) * 3), LABELS, {})
    masked = assembling.rewritten(texts, style_only)
    assert [text.label for text in masked.train] == [text.label for text in texts.train]
    assert not any(set(text.text) - set("xX0 ") for text in (*masked.train, *masked.validation, *masked.test))


def test_every_case_is_named_once_and_asks_routers_that_there_are() -> None:
    names = [(case.part, case.name) for case in cases.CASES]
    assert len(set(names)) == len(names)
    assert {router for case in cases.CASES for router in case.routers} == {*ROUTERS, *TRIALS}


@needs_data
def test_settings_are_tuned_without_the_test_texts() -> None:
    corpora = cases.Corpora(DATA, {"own": 1, "prompts": 60, "out_of_domain": 1})
    texts = cases._tuning(corpora).texts
    tuned = {text.id for text in (*texts.train, *texts.validation, *texts.test)}
    assert texts.test
    assert not {text.id for text in texts.validation} & {text.id for text in texts.test}
    assert not tuned & {text.id for text in cases._all_prompts(corpora).texts.test}


def test_each_out_of_domain_set_is_learned_in_one_half_and_unseen_in_the_other() -> None:
    learned = [name for sets in cases.HALVES.values() for name in sets]
    assert len(set(learned)) == len(learned) == 6


def test_a_run_counts_its_test_texts_by_source_as_its_results_do(run: RunRecord) -> None:
    assert sum(share.n for share in run.by_source.values()) == run.results.n == len(run.verdicts)
    num_right = sum(share.num_right for share in run.by_source.values())
    assert num_right == int(np.trace(run.results.confusion)) == round(run.results.accuracy * run.results.n)
    assert num_right > 0.8 * run.results.n, "a test that tells nothing from anything proves nothing"
    assert [run.extra[label].n for label in run.extra] == [20]


def test_unseen_out_of_domain_sets_leave_out_the_routers_own_other_texts(run: RunRecord) -> None:
    assert {result.set for result in run.results.out_of_domain} == {OTHER, "chatter"}
    unseen = unseen_results(measurements(run), "noisy prompts, other from prompts", "tfidf")
    assert {result.set for result in unseen} == {"chatter"}


def test_macro_f1_of_the_confusion_is_scikit_learns_and_lies_in_its_interval(run: RunRecord) -> None:
    said = [each.predicted for each in run.verdicts]
    expected = f1_score([each.label for each in run.verdicts], said, average="macro")
    assert run.results.macro_f1 == pytest.approx(expected)
    low, high, _ = macro_f1_bounds(run.results)
    assert low is not None
    assert high is not None
    assert low <= expected <= high
    assert 0 < high - low < 0.3


def test_measurements_are_read_as_they_were_written_and_done_runs_are_not_done_again(
    run: RunRecord, tmp_path: Path
) -> None:
    path, measured = tmp_path / "measured.json", measurements(run)
    assert read_measurements(path) is None
    write_measurements(path, measured)
    assert read_measurements(path) == measured
    case = cases.Case(part="noisy", name="all", routers=("tfidf", "minilm"), build=cases._all_prompts)
    assert missing_routers(measured, case, case.routers) == ["minilm"]
    assert missing_runs(measured, [case], ["tfidf"]) == []


def test_another_files_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"runs": 3}', encoding="utf-8")
    with pytest.raises(DataError, match="no results of this command"):
        read_measurements(path)


def test_tables_show_a_run_and_leave_out_what_was_not_measured(run: RunRecord) -> None:
    printed = "\n".join([*all_tables(measurements(run)), *out_of_domain_tables(measurements(run))])
    assert f"| tfidf | {run.results.accuracy:.3f} [" in printed
    assert "| minilm" not in printed


def test_the_calibration_table_tells_one_temperature_or_two(run: RunRecord) -> None:
    told = {"temperature": 1.5, "confident_temperature": None}
    for confident, shown in ((None, "| 1.50 |"), (0.75, "| 1.50, 0.75 |")):
        results = run.results.model_copy(update=told | {"confident_temperature": confident})
        assert shown in "\n".join(out_of_domain_tables(measurements(run.model_copy(update={"results": results}))))


def test_own_questions_are_held_to_their_target(run: RunRecord) -> None:
    own = run.model_copy(update={"part": "own", "case": "pooled"})
    missed = own.model_copy(update={"results": own.results.model_copy(update={"accuracy": 0.98})})
    met = own.model_copy(update={"router": "minilm", "results": own.results.model_copy(update={"accuracy": 0.99})})
    assert failures(measurements(missed)) == ["own questions: the best accuracy is 0.9800, below 0.99"]
    assert failures(measurements(missed, met)) == []


def test_agreement_counts_texts_that_no_router_gets_right() -> None:
    first = [verdict(0, "code"), verdict(1, "legal"), verdict(2, "legal"), verdict(3, "legal")]
    second = [verdict(0, "legal"), verdict(1, "code"), verdict(2, "legal"), verdict(3, "other")]
    found = agreement({"first": first, "second": second})
    assert (found.n, found.num_any_right, found.num_none_right, found.num_one_other_label) == (4, 2, 2, 1)


def test_the_surest_mistake_comes_first() -> None:
    judged = [
        verdict(0, "code", confidence=0.99),
        verdict(1, "legal", confidence=0.6),
        verdict(2, "legal", confidence=0.9),
    ]
    assert [each.id for each in surest_mistakes(judged)] == ["2", "1"]


def test_a_difference_of_accuracies_is_of_the_same_texts() -> None:
    first = [verdict(number, "code" if number < 80 else "legal") for number in range(100)]
    second = [verdict(number, "code" if number < 60 else "legal") for number in range(100)]
    difference, (low, high, _) = accuracy_difference(first, second)
    assert difference == pytest.approx(0.2)
    assert low is not None
    assert high is not None
    assert 0.1 < low < 0.2 < high < 0.3
    with pytest.raises(ValueError, match="other texts"):
        accuracy_difference(first, second[::-1])


def test_lengths_are_grouped_in_order() -> None:
    groups = [length_group(verdict(0, "code", words=words)) for words in (0, 6, 7, 15, 16, 60, 61, 900)]
    assert groups == sorted(groups)
    assert [groups.count(group) for group in dict.fromkeys(groups)] == [2, 2, 2, 2]


@needs_data
def test_real_sets_hold_nothing_of_the_groups_that_are_left_out() -> None:
    out_of_domain = read_out_of_domain(DATA)
    assert set(out_of_domain) == {name for sets in cases.HALVES.values() for name in sets}
    assert {text.label for texts in out_of_domain.values() for text in texts} == {OTHER}
    assert len(out_of_domain["newsgroups20"]) == 200 * (20 - len(LEFT_OUT["newsgroups20"]))
    assert all(text.text.strip() for texts in out_of_domain.values() for text in texts)


@needs_data
def test_real_questions_and_prompts_have_ids_of_their_own_and_known_labels() -> None:
    own, prompts = read_own(DATA), read_prompts(DATA)
    texts = [text for group in (*own.values(), *prompts.values()) for text in group]
    assert len({text.id for text in texts}) == len(texts)
    assert {source: group[0].label for source, group in own.items()} == {
        source: label for label, sources in OWN_SOURCES.items() for source in sources
    }
    assert {label: {text.label for text in group} for label, group in prompts.items()} == {
        label: {label} for label in LABELS
    }
