"""What the report says of a router, against plain counts of its routes and scores."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moe_ray.comparison.records import Summary
from moe_ray.comparison.routing_records import RoutingAccuracy
from moe_ray.formatting import NO_BREAK
from moe_ray.report import routing_plots
from moe_ray.report.cautions import cautions
from moe_ray.report.measures import Measures, cost_table
from moe_ray.report.routing import routing_sentence, routing_view
from moe_ray.report.tables import summary_tables
from moe_ray.report.verdict import headline, terms
from moe_ray.report.views import domain_views, series_of, system_rows
from moe_ray.report.write import render_report, report_of
from tests.report.conftest import Reported
from tests.report.pages import Page, payload_of
from tests.report.routing_parts import DOMAINS, accuracies, changed, regret, routes_of, routing_of, sweep_of
from tests.support.synthetic_routes import PERFECT, route, synthetic_test
from tests.support.synthetic_run import ALL_METRICS, synthetic_run


def sentence(summary: Summary, **fields: Any) -> str:
    changed_summary = changed(summary, **fields)
    return routing_sentence(changed_summary, routing_of(changed_summary)).replace(NO_BREAK, " ")


def column(table: Measures, title: str) -> dict[str, str]:
    cells = next(column.cells for column in table.columns if column.title == title)
    return dict(zip(table.names, cells, strict=True))


def test_only_a_run_with_a_router_has_a_routing_section_and_a_link_to_it(reported: Reported, routed: Reported) -> None:
    for found, has_router in ((reported, False), (routed, True)):
        ids = {given.get("id") for _, given in Page(found.page).elements}
        links = {given.get("href") for given in Page(found.page).named("a")}
        assert ("routing" in ids, "#routing" in links) == (has_router, has_router)
        assert ("routes" in payload_of(found.page)) == has_router
    assert routing_view(reported.summary) is None


def test_the_sentence_counts_what_the_router_did(routed: Reported) -> None:
    routes = routes_of(routed)
    chosen = [routes.domains[row.argmax()] for row in routes.probabilities]
    num_right = sum(own == other for own, other in zip(routes.example_domains, chosen, strict=True))
    num_out_of_domain = sum(score < routes.threshold for score in routes.scores)
    text = sentence(routed.summary)
    assert text.startswith(f"The router named the right domain for {num_right} of 60 examples")
    assert f"It classified {num_out_of_domain} of them as out-of-domain" in text


def test_what_mistakes_cost_is_the_experts_value_less_the_routed_one(routed: Reported) -> None:
    routes = routes_of(routed)
    experts = dict(zip(DOMAINS, ("biomed-expert", "legal-expert", "code-expert"), strict=True))
    values = {(s.model, s.example_id): s.value for s in routed.scores if s.metric == "accuracy"}
    lost = []
    for row, example_id in enumerate(routes.example_ids):
        sent_to = experts[routes.domains[routes.probabilities[row].argmax()]]
        own, other = (values.get((model, example_id)) for model in ("biomed-expert", sent_to))
        if routes.example_domains[row] == "biomedical" and own is not None and other is not None:
            lost.append(own - other)
    view = routing_view(routed.summary)
    assert view is not None
    shown = column(view.accuracy, "lost by mistakes")["biomedical"]
    assert float(shown.replace("\N{MINUS SIGN}", "-")) == pytest.approx(sum(lost) / len(lost), abs=0.0005)
    assert f"{abs(sum(lost) / len(lost)):.3f} of accuracy in biomedical" in view.sentence


@pytest.mark.parametrize(
    ("right", "told"),
    [
        (
            {"biomedical": 50, "legal": 50, "code": 50},
            "for all 150 examples (accuracy 1.000, 95 % interval [0.975, 1.000]). It",
        ),
        (
            {"biomedical": 18, "legal": 16, "code": 16},
            "It is not shown to be better than always naming one and the same",
        ),
        ({"biomedical": 2, "legal": 3, "code": 0}, "It is worse than always naming one and the same domain"),
        ({"biomedical": 40}, "There is one domain, so the router had nothing to choose between (50 examples). It"),
    ],
)
def test_the_sentence_is_right_for_perfect_and_for_useless_routers(
    routed: Reported, right: dict[str, int], told: str
) -> None:
    assert told in sentence(routed.summary, accuracy=accuracies(right, 50), domains=list(right), regret=[])


def test_where_one_domain_is_larger_it_is_named_as_what_chance_would_say(routed: Reported) -> None:
    small, large = (RoutingAccuracy(**(item.model_dump() | {"n": n, "num_right": n // 2}))
                    for item, n in zip(accuracies({"code": 10, "legal": 45}, 50), (10, 90), strict=False))  # fmt: skip
    whole = accuracies({"all": 50}, 100)[-1]
    text = sentence(routed.summary, accuracy=[small, large, whole], domains=["code", "legal"], regret=[])
    assert "It is worse than always naming legal, which would be right for 90 (0.900)." in text


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((0.0, 0.0), "Its mistakes changed no score, compared with perfect routing."),
        ((0.012, 0.0), "its mistakes cost 0.012 of metric of code in code, nothing elsewhere."),
        (
            (0.012, -0.03),
            "its mistakes cost 0.012 of metric of code in code, and gained 0.030 of metric of legal in legal.",
        ),
        ((0.0001, 0.2), "its mistakes cost less than 0.001 of metric of code in code and 0.200 of metric of legal in"),
    ],
)
def test_costs_gains_and_nothing_are_told_apart(routed: Reported, parts: tuple[float, float], told: str) -> None:
    found = [regret(name, wrong_domain=part) for name, part in zip(("code", "legal"), parts, strict=True)]
    assert told in sentence(routed.summary, regret=found)


def test_a_router_without_a_mistake_cost_no_quality(tmp_path: Path) -> None:
    run, scores = synthetic_run(tmp_path / "run", num_models=4, num_answers=120)
    route(run, skill=PERFECT)
    summary = report_of(run, scores, ALL_METRICS)
    assert sentence(summary).endswith("Each was answered by its own domain's expert, so the router cost no quality.")
    assert headline(summary).also.startswith("The same holds for the cascade")


def test_with_a_router_the_first_sentence_is_about_the_routed_experts(reported: Reported, routed: Reported) -> None:
    assert headline(reported.summary).sentence.startswith("The experts beat the baseline")
    found = headline(routed.summary)
    assert "routed experts" in found.sentence
    assert [verdict.sentence.count("routed experts") for verdict in found.domains] == [1, 1, 1]
    assert "All models that may answer take" in found.cost
    assert headline(routed.summary, "experts").sentence == headline(reported.summary).sentence


def test_the_first_screen_explains_its_systems_and_costs(reported: Reported, routed: Reported) -> None:
    assert "Baseline: general-7b, one general model that answers every query." in routed.page
    assert "Experts: biomed-expert, legal-expert and code-expert, each for its own domain." in routed.page
    assert "Routed: a router reads each query and chooses the expert that answers." in terms(routed.summary)
    assert "Routed" not in terms(reported.summary)
    assert "Memory-seconds" in terms(reported.summary)
    without = routed.summary.run.model_copy(update={"experts": {}})
    assert terms(routed.summary.model_copy(update={"run": without})) == ""


@pytest.mark.parametrize(
    ("verdicts", "also"),
    [
        (
            ("a_better", "a_better", "a_better"),
            "The same holds for the cascade (queries that the router",
        ),
        (
            ("a_better", "b_better", "a_better"),
            "go to the baseline): the baseline beats the cascade in all",
        ),
        (
            ("b_better", "b_better", "a_better"),
            "perfect routing (every query goes to its own domain's expert): the experts beat the baseline in",
        ),
        (("a_better", "not_tested", "not_tested"), ""),
    ],
)
def test_the_other_ways_to_use_the_experts_are_told_where_they_fare_otherwise(
    routed: Reported, verdicts: tuple[str, ...], also: str
) -> None:
    by_system = dict(zip(("routed", "cascade", "experts"), verdicts, strict=True))
    comparisons = [item.model_copy(update={"verdict": by_system[item.system_a]}) for item in routed.summary.comparisons]
    text = headline(routed.summary.model_copy(update={"comparisons": comparisons})).also
    assert also in text
    assert bool(text) == bool(also)


def test_policies_come_first_then_bounds_named_as_such_then_models(routed: Reported) -> None:
    labels = [row.label for row in system_rows(routed.summary, "legal")]
    assert labels[:4] == ["baseline (general-7b)", "experts (legal-expert)", "routed", "cascade"]
    assert labels.index("random (drawn by chance)") > labels.index("cascade")
    assert labels.index("oracle (upper bound of ROUGE-L)") < labels.index("code-expert")


def test_the_routed_experts_bear_the_colour_that_won_has(reported: Reported, routed: Reported) -> None:
    assert series_of(routed.summary)["routed"] == series_of(reported.summary)["experts"] == 1
    assert len(set(series_of(routed.summary).values())) == len(series_of(routed.summary)) - 1  # the baseline's model


def test_each_domain_has_its_regret_drawn_and_every_part_in_the_table(routed: Reported) -> None:
    routing, view = routing_of(routed.summary), routing_view(routed.summary)
    assert view is not None
    assert view.regret is not None
    assert [plot.title for plot in routing_plots.regret_plots(routed.summary)] == DOMAINS
    parts = ("wrong domain", "sent to the baseline", "right expert worse", "regret")
    columns = {name: next(column.cells for column in view.regret.columns if column.title == name) for name in parts}
    rows = [
        [float(columns[name][at].replace("\N{MINUS SIGN}", "-")) for name in parts] for at in range(len(routing.regret))
    ]
    assert all(sum(row[:3]) == pytest.approx(row[3], abs=0.0021) for row in rows)
    assert [group.title for group in view.regret.groups] == [
        "biomedical, accuracy", "legal, ROUGE-L", "code, pass@1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strong", "told"),
    [
        ("routed", ["keep 0.61 on average (APGR)", "The router must answer 0.25 of the queries for 50 % of it (CPT"]),
        ("baseline", ["that the baseline answers", "The baseline must answer 0.25 of"]),
        (None, ["do not tell the two ends apart", "no APGR and CPT"]),
    ],
)  # fmt: skip
def test_the_gap_that_thresholds_keep_is_told_in_sentences(
    routed: Reported, strong: str | None, told: list[str]
) -> None:
    view = routing_view(changed(routed.summary, sweep=sweep_of(0.1, 0.5, 0.9, strong=strong)))
    assert view is not None
    text = " ".join(view.trade)
    assert "0.800 with the router always, 0.600 with the baseline always" in text
    assert all(part in text for part in told)
    assert "CPT 80" not in text


def titles(summary: Summary) -> set[str]:
    about_routing = {"Partial oracle", "Routing drift", "Confidence", "Few test texts", "Threshold"}
    return {caution.title for caution in cautions(summary)} & about_routing


def test_a_router_as_good_as_its_test_is_not_warned_of(routed: Reported) -> None:
    sound = changed(routed.summary, oracle_is_whole=True, accuracy=accuracies(dict.fromkeys(DOMAINS, 46), 50))
    assert titles(changed(sound, calibration=synthetic_test(DOMAINS).after_scaling)) == set()


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"oracle_is_whole": False}, "Partial oracle"),
        ({"accuracy": accuracies(dict.fromkeys(DOMAINS, 20), 50)}, "Routing drift"),
        ({"calibration": synthetic_test(DOMAINS).before_scaling}, "Confidence"),
        ({"test_results": synthetic_test(DOMAINS, num_texts=29)}, "Few test texts"),
        ({"accuracy": accuracies(dict.fromkeys(DOMAINS, 46), 50, out_of_domain=76)}, "Threshold"),
    ],
)
def test_what_makes_a_router_doubtful_is_said_first(routed: Reported, fields: dict[str, Any], title: str) -> None:
    sound = changed(routed.summary, oracle_is_whole=True, accuracy=accuracies(dict.fromkeys(DOMAINS, 46), 50))
    sound = changed(sound, calibration=synthetic_test(DOMAINS).after_scaling)
    assert titles(changed(sound, **fields)) == {title}


def test_the_routers_own_test_stands_in_its_tables(routed: Reported) -> None:
    tested, view = routing_of(routed.summary).test_results, routing_view(routed.summary)
    assert tested is not None
    assert view is not None
    assert view.labels is not None
    assert view.out_of_domain is not None
    recalls = column(view.labels, "recall")
    for at, label in enumerate(tested.labels):
        assert float(recalls[label]) == pytest.approx(tested.confusion[at][at] / sum(tested.confusion[at]), abs=0.0005)
    assert [(group.title, group.end - group.start) for group in view.out_of_domain.groups] == [
        ("tested against", 2), ("chosen by (validation)", 2),
    ]  # fmt: skip


def test_one_temperature_is_told_and_so_are_two(routed: Reported) -> None:
    tested = synthetic_test(DOMAINS).model_copy(update={"temperature": 1.625, "confident_temperature": None})
    two = tested.model_copy(update={"confident_temperature": 0.975})
    one_view, two_view = (routing_view(changed(routed.summary, test_results=each)) for each in (tested, two))
    assert one_view is not None
    assert two_view is not None
    assert "A temperature of 1.62 moved its expected calibration error" in one_view.test
    assert "Temperatures of 0.97 where it is confident and 1.62 where it is not moved" in two_view.test


def test_a_router_that_was_loaded_without_its_test_has_a_section_without_one(routed: Reported) -> None:
    summary = changed(routed.summary, test_results=None, sweep=None, regret=[])
    page = render_report(summary, routed.run.manifest(), payload_of(routed.page))
    assert Page(page).open == []
    assert "The router's own test" not in page
    assert "What is lost to the oracle" not in page


def test_the_cost_table_tells_the_routers_part_and_what_stays_loaded_where_there_is_a_router(
    reported: Reported, routed: Reported
) -> None:
    def columns(summary: Summary) -> str:
        return "; ".join(column.title for column in cost_table(summary, domain_views(summary)).columns)

    assert "router's part" not in columns(reported.summary)
    assert "router's part (ms)" in columns(routed.summary)
    assert "kept loaded (GiB)" in columns(routed.summary)


def test_the_terminal_shows_the_same_accuracies_within_eighty_columns(routed: Reported) -> None:
    stream = io.StringIO()
    Console(width=80, file=stream).print(summary_tables(routed.summary))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for item in routing_of(routed.summary).accuracy:
        assert re.search(rf"{item.domain or 'all'} +{item.accuracy:.3f}", text)


def test_each_example_of_the_browser_knows_where_it_was_sent(routed: Reported) -> None:
    routes, found = routes_of(routed), payload_of(routed.page)["routes"]
    assert len(found) == len(routes.example_ids)
    for row, (domain, example_id) in enumerate(zip(routes.example_domains, routes.example_ids, strict=True)):
        name, confidence, out_of_domain = found[f"{domain}/{example_id}"]
        assert name == routes.domains[routes.probabilities[row].argmax()]
        assert confidence == pytest.approx(max(routes.probabilities[row]), abs=5e-5)
        assert out_of_domain == int(routes.scores[row] < routes.threshold)
