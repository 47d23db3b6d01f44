"""The report of a trace: planted differences are found, and nothing else."""

import numpy as np
import pytest

from moe_ray.specialisation import information as info
from moe_ray.specialisation.measures import ALL_TEXTS, MeasuredValue
from moe_ray.specialisation.records import TokenTrace, Trace
from moe_ray.specialisation.report import FAMILIES, SpecialisationReport, make_report, sentence_of_all
from moe_ray.specialisation.sequences import pair_counts
from tests.specialisation.planted import (
    NUM_EXPERTS,
    TOP_K,
    clustered_counts,
    tilted,
    trace_of_counts,
    trace_of_tokens,
)


def two_classes(size: float, seed: int = 1, num: int = 40) -> Trace:
    rng = np.random.default_rng(seed)
    counts = np.concatenate([clustered_counts(rng, tilted(size * at), num, concentration=50) for at in (0, 1)])
    return trace_of_counts(counts, ["code"] * num + ["law"] * num)


def values(report: SpecialisationReport, measure: str) -> list[MeasuredValue]:
    return [value for value in report.values if value.measure == measure]


def test_a_planted_difference_is_found_with_the_experts_that_make_it() -> None:
    report = make_report(two_classes(0.7))
    (js,) = values(report, "generalised_js")
    assert js.q_value is not None
    assert js.q_value < 0.01
    assert js.low is not None
    assert js.low > 0
    named = {(one.expert, one.label, (one.lift or 1) > 1) for one in report.sentences if one.label}
    assert (5, "law", True) in named or (5, "code", False) in named
    assert "0.001" in report.sentences[0].text
    assert sentence_of_all(report).startswith(f"{len(named)} of 6 experts")


def test_without_a_difference_the_report_says_what_it_could_have_seen() -> None:
    report = make_report(two_classes(0.0, seed=4))
    assert all(one.label is None for one in report.sentences)
    assert "would not be seen" in report.sentences[0].text
    assert sentence_of_all(report).startswith("0 of 6 experts")


def test_no_plug_in_value_comes_without_its_null() -> None:
    report = make_report(two_classes(0.3))
    means = ("entropy", "weight_entropy", "set_margin", "top_margin", "top_probability")
    for value in report.values:
        assert value.null is not None or (value.label == ALL_TEXTS and value.measure in means), value
        if value.null is not None:
            assert value.value is not None
            assert value.null_mean is not None
            assert value.excess == pytest.approx(value.value - value.null_mean)


def test_the_values_are_those_of_the_formulas() -> None:
    trace = two_classes(0.3)
    report = make_report(trace)
    totals = np.stack([trace.layers[0].selected[:40].sum(axis=0), trace.layers[0].selected[40:].sum(axis=0)])
    assert values(report, "generalised_js")[0].value == pytest.approx(float(info.generalised_js(totals)))
    used = [value.value for value in values(report, "utilisation")]
    tokens = [trace.num_tokens[:40].sum(), trace.num_tokens[40:].sum()]
    assert used == pytest.approx(list(info.utilisation(totals, tokens).ravel()))
    loads = {value.label: value.value for value in values(report, "load_entropy")}
    assert loads["law"] == pytest.approx(float(info.load_entropy(totals[1])))
    assert loads[ALL_TEXTS] == pytest.approx(float(info.load_entropy(totals.sum(axis=0))))


def test_texts_that_weigh_the_same_are_averaged_as_shares() -> None:
    trace = two_classes(0.3)
    report = make_report(trace, weight="text")
    shares = info.shares(trace.layers[0].selected)
    totals = np.stack([shares[:40].sum(axis=0), shares[40:].sum(axis=0)])
    assert values(report, "generalised_js")[0].value == pytest.approx(float(info.generalised_js(totals)))


def test_a_class_of_two_texts_is_named_and_not_compared() -> None:
    trace = two_classes(0.3)
    labels = [*trace.labels[:38], "rare", "rare", *trace.labels[40:]]
    report = make_report(trace_of_counts(trace.layers[0].selected, labels))
    assert report.too_small == {"rare": 2}
    assert report.classes == {"code": 38, "law": 40}
    assert all(value.label != "rare" for value in report.values)
    assert any("rare (2)" in note for note in report.notes)


def test_texts_without_classes_have_loads_and_no_comparisons() -> None:
    trace = two_classes(0.3)
    report = make_report(trace_of_counts(trace.layers[0].selected, [""] * 80))
    assert {value.label for value in report.values} == {ALL_TEXTS}
    assert report.sentences == []


def test_each_family_of_tests_is_adjusted_and_named() -> None:
    report = make_report(two_classes(0.3))
    assert report.families[FAMILIES["lift"]] == 2 * NUM_EXPERTS
    assert report.families[FAMILIES["generalised_js"]] == 1
    lifts = values(report, "lift")
    assert all(one.q_value is not None and one.p_value is not None and one.q_value >= one.p_value for one in lifts)


def tokens_of(rng: np.random.Generator, ids: np.ndarray, tables: np.ndarray) -> TokenTrace:
    """Tokens whose experts are drawn by `tables` [layers, vocabulary, E] of log preferences."""
    noise = rng.gumbel(size=(len(ids), len(tables), tables.shape[2]))
    chosen = np.argsort(-(tables[:, ids].swapaxes(0, 1) + noise), axis=2)[:, :, :TOP_K]
    return TokenTrace(token_ids=ids.astype(np.int32), experts=chosen.astype(np.int16))


def vocabulary_trace(*, beyond: float, seed: int = 1) -> Trace:
    """Two classes of other words; experts follow the word, and in "law" also the class, as far as `beyond` says."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(0, 1.5, (2, 20, NUM_EXPERTS))
    tilt = beyond * np.linspace(-1, 1, NUM_EXPERTS)
    words = rng.dirichlet(np.ones(20), 2)
    texts, labels = [], []
    for code, label in enumerate(("code", "law")):
        for _ in range(40):
            own = rng.dirichlet(20 * words[code])
            texts.append(tokens_of(rng, rng.choice(20, 60, p=own), tables + code * tilt))
            labels.append(label)
    return trace_of_tokens(texts, labels, NUM_EXPERTS)


def test_a_difference_of_vocabulary_alone_is_none_given_the_token() -> None:
    report = make_report(vocabulary_trace(beyond=0.0))
    assert all((one.q_value or 0) < 0.01 for one in values(report, "generalised_js"))
    for given in values(report, "conditional_information"):
        assert given.q_value is not None
        assert given.q_value > 0.05
        assert given.low is not None
        assert given.low < 0 < (given.high or 0)


def test_a_difference_beyond_vocabulary_is_found_given_the_token() -> None:
    for given in values(make_report(vocabulary_trace(beyond=1.0)), "conditional_information"):
        assert given.q_value is not None
        assert given.q_value < 0.01
        assert given.low is not None
        assert given.low > 0


def test_pairs_of_experts_are_counted_as_a_plain_loop_counts_them() -> None:
    rng = np.random.default_rng(2)
    experts = np.array([rng.permutation(5)[:3] for _ in range(200)], dtype=np.int16)
    expected = np.zeros((5, 5))
    for token in experts:
        for a in token:
            for b in token:
                expected[a, b] += a != b
    assert (pair_counts(experts, 5) == expected).all()


def test_co_activation_of_independent_experts_is_within_chance_and_of_a_pair_beyond() -> None:
    rng = np.random.default_rng(3)
    independent = [tokens_of(rng, np.zeros(60, dtype=int), np.zeros((1, 1, NUM_EXPERTS))) for _ in range(30)]
    report = make_report(trace_of_tokens(independent, [""] * 30, NUM_EXPERTS))
    pairs = values(report, "co_activation")
    assert len(pairs) == NUM_EXPERTS * (NUM_EXPERTS - 1) // 2
    outside = [one for one in pairs if not (one.null_low or 0) <= (one.value or 0) <= (one.null_high or 0)]
    assert len(outside) <= 3
    for text in independent:
        text.experts[::2, 0] = (2, 4)
    (pair,) = [
        one
        for one in values(make_report(trace_of_tokens(independent, [""] * 30, NUM_EXPERTS)), "co_activation")
        if (one.expert, one.other) == (2, "4")
    ]
    assert (pair.value or 0) > (pair.null_high or 0)


def test_layers_that_copy_each_other_share_all_their_information() -> None:
    rng = np.random.default_rng(4)
    texts = [tokens_of(rng, np.zeros(60, dtype=int), np.zeros((2, 1, NUM_EXPERTS))) for _ in range(30)]
    (apart,) = values(make_report(trace_of_tokens(texts, [""] * 30, NUM_EXPERTS)), "cross_layer_information")
    assert (apart.null_low or 0) <= (apart.value or 0) <= (apart.null_high or 0)
    for text in texts:
        text.experts[:, 1] = text.experts[:, 0]
    (copied,) = values(make_report(trace_of_tokens(texts, [""] * 30, NUM_EXPERTS)), "cross_layer_information")
    assert copied.value == pytest.approx(np.log2(NUM_EXPERTS), abs=0.02)
    assert copied.p_value == pytest.approx(0.01)
