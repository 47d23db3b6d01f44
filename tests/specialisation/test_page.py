"""The page: a sentence per expert first, self-contained, and safe whatever the classes and texts are called."""

import itertools
import re
from collections import Counter

import pytest

from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from moe_ray.specialisation.page.experts import NO_ABLATION, NO_TRACE, expert_lines, headline
from moe_ray.specialisation.page.render import render_page
from moe_ray.specialisation.pictures.chosen import all_pictures
from moe_ray.specialisation.report import SpecialisationReport, make_report
from tests.report.pages import Page
from tests.specialisation.made_up import EVIL, drawn_ablation, drawn_trace


@pytest.fixture(scope="module")
def report() -> SpecialisationReport:
    return make_report(drawn_trace())


@pytest.fixture(scope="module")
def ablation() -> AblationReport:
    return make_ablation_report(drawn_ablation())


@pytest.fixture(scope="module", params=["trace", "ablation", "both"])
def shown(request: pytest.FixtureRequest) -> str:
    trace = drawn_trace() if request.param != "ablation" else None
    report = None if trace is None else make_report(trace)
    ablation = make_ablation_report(drawn_ablation()) if request.param != "trace" else None
    return render_page(report, ablation, list(all_pictures(report, trace, ablation)))


def test_the_page_is_whole_and_asks_nothing_of_any_server(shown: str) -> None:
    page = Page(shown)
    assert page.open == []
    assert re.findall(r"https?://[^\s\"'<]+", shown) == []
    assert re.search(r"@import|url\((?!#)", shown) is None
    assert [one for _, one in page.elements if {"src", "srcset", "action", "data", "onload"} & one.keys()] == []
    (policy,) = [item["content"] for item in page.named("meta") if item.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_no_name_runs_as_code(shown: str) -> None:
    assert Page(shown).named("script") == []
    assert "<script" not in shown
    assert "alert(1)" in shown
    assert not {"\x00", "\x1b", "\u202e"} & set(shown)


def test_ids_are_unique_links_lead_somewhere_and_headings_skip_no_level(shown: str) -> None:
    page = Page(shown)
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, num in ids.items() if num > 1] == []
    links = [one[name] for _, one in page.elements for name in ("href", "xlink:href") if name in one]
    assert {(link or "")[1:] for link in links} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(one.get("aria-label") and one.get("role") == "img" for one in page.named("svg"))


def test_what_is_needed_comes_first_with_all_that_says_how_certain_it_is(
    report: SpecialisationReport, ablation: AblationReport
) -> None:
    first = expert_lines(report, ablation)[0]
    assert (first.layer, first.expert) == (0, 1)
    pattern = (
        r"removing it costs law 0\.\d{3} \(0\.\d{3} to 0\.\d{3}\) bits per byte \(reroute\), 0\.\d{3} worse than "
        r"20 matched controls \(adjusted p.<.0\.001\); beyond the other classes by 0\.\d{3}"
    )
    assert re.search(pattern, first.sentence), first.sentence
    assert first.sentence.startswith("Expert 1 of layer 0: ")


def test_a_use_is_never_shown_without_its_null(report: SpecialisationReport) -> None:
    used = [line for line in expert_lines(report, None) if line.is_found]
    assert used
    for line in used:
        assert re.search(r"texts use it [\d.]+ \([\d.]+ to [\d.]+\) times as often as the classes together", line.use)
        assert re.search(r"\(by chance [\d.]+ to [\d.]+, adjusted p", line.use)
        assert line.cost == NO_ABLATION


def test_an_ablation_alone_says_that_use_is_not_measured(ablation: AblationReport) -> None:
    lines = expert_lines(None, ablation)
    assert len(lines) == 12
    assert {line.use for line in lines} == {NO_TRACE}
    assert sum(line.is_found for line in lines) == 1
    assert "1 of 12 removed experts changes some class's score" in headline(lines, None, ablation)
    assert any("no token selects it" in line.cost for line in lines)
    quiet = next(line for line in lines if line.cost_q is not None and line.cost_q >= 0.05)
    assert "would not be seen" in quiet.cost


def test_a_margin_turns_nothing_found_into_an_equivalence() -> None:
    lines = expert_lines(None, make_ablation_report(drawn_ablation(), margin=0.4))
    assert any("changes each class by less than 0.400 bits per byte" in line.cost for line in lines)


def test_no_headroom_is_said_where_the_intact_model_is_at_chance() -> None:
    lines = expert_lines(None, make_ablation_report(drawn_ablation(right=True, labels=("law", "code"))))
    assert any("no headroom in the accuracy on" in line.cost for line in lines)


def test_experts_that_were_not_removed_are_named_as_such(report: SpecialisationReport) -> None:
    ablation = make_ablation_report(drawn_ablation(num_layers=1))
    lines = expert_lines(report, ablation)
    assert len(lines) == 12
    assert sum("the ablation did not remove it" in line.cost for line in lines) == 6


def test_a_router_of_whole_texts_has_its_experts_names() -> None:
    trace = drawn_trace(num_layers=1, num_experts=3, top_k=1, labels=("law", "code"))
    names = ["law-model", "code-model", f"none {EVIL}"]
    router = trace.manifest.model_copy(update={"unit": "text", "expert_names": names, "model_type": "router"})
    report = make_report(
        type(trace)(**{**{name: getattr(trace, name) for name in trace.__slots__}, "manifest": router})
    )
    lines = expert_lines(report, None)
    assert {"Expert law-model of layer 0", "Expert code-model of layer 0"} <= {line.name for line in lines}
    shown = render_page(report, None, list(all_pictures(report, trace, None)))
    assert "This router decides once for a whole text" in shown
    assert "<script" not in shown


def test_a_page_of_many_experts_is_cut_and_says_so() -> None:
    trace = drawn_trace(num_layers=9, num_experts=64, top_k=2, labels=("a", "b"), num_texts=10)
    shown = render_page(make_report(trace), None, [])
    assert "76 more rows are left out here; --json prints all." in shown
