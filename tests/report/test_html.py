"""The page: whole, self-contained, accessible, and safe whatever a model wrote."""

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import moe_ray
from moe_ray.formatting import words
from moe_ray.report import browser
from moe_ray.report import write as html
from moe_ray.report.views import MetricView
from moe_ray.report.write import write_report
from tests.report.conftest import Reported
from tests.report.pages import Page, payload_of
from tests.support.synthetic_run import CUT_EXAMPLE, EVIL, NUM_CUT


@pytest.fixture(scope="module", params=["reported", "routed"])
def shown(request: pytest.FixtureRequest) -> Reported:
    """A report without a router, and one with."""
    found: Reported = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def page(shown: Reported) -> Page:
    return Page(shown.page)


def test_every_element_that_opens_closes(page: Page) -> None:
    assert page.open == []


def test_no_id_is_there_twice_and_every_local_link_leads_somewhere(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, num in ids.items() if num > 1] == []
    links = [
        attributes[name] for _, attributes in page.elements for name in ("href", "xlink:href") if name in attributes
    ]
    assert links
    assert {link for link in links if not (link or "").startswith("#")} == set()
    assert {(link or "")[1:] for link in links} <= set(ids)


def test_the_page_asks_nothing_of_any_server(shown: Reported, page: Page) -> None:
    assert re.findall(r"https?://[^\s\"'<]+", shown.page) == []
    assert re.search(r"@import|url\((?!#)", shown.page) is None
    assert [
        attributes for _, attributes in page.elements if {"src", "srcset", "action", "data"} & attributes.keys()
    ] == []
    policy = next(item for item in page.named("meta") if item.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in (policy["content"] or "")


def test_markup_in_answers_and_prompts_stays_text(shown: Reported, page: Page) -> None:
    """The fixture's models answer with a closing script tag and an image whose error handler runs code."""
    assert EVIL not in shown.page
    assert "<img" not in shown.page
    assert len(page.named("script")) == 2
    assert any(EVIL in row["t"] for row in payload_of(shown.page)["answers"])


def test_the_script_never_writes_markup(page: Page) -> None:
    (script,) = [text for text in page.raw["script"] if "use strict" in text]
    assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", script) is None


def test_the_payload_holds_every_answer_with_its_scores(reported: Reported) -> None:
    payload = payload_of(reported.page)
    assert payload["total"] == len(payload["answers"]) == reported.run.answers_table().num_rows
    row = next(row for row in payload["answers"] if (row["m"], row["e"]) == ("code-expert", "code-00000"))
    mine = [s for s in reported.scores if (s.model, s.example_id) == ("code-expert", "code-00000")]
    assert [entry[:2] for entry in row["g"]] == [[words(s.metric), pytest.approx(s.value, rel=1e-5)] for s in mine]
    assert payload["texts"][payload["references"]["code/code-00000"]].endswith("The reference answer of code 0.")


def test_verdicts_follow_the_domains_first_right_wrong_metric(reported: Reported) -> None:
    found = {(row["m"], row["d"], row["e"]): row["v"] for row in payload_of(reported.page)["answers"]}
    for score in reported.scores:
        if score.metric in ("accuracy", "pass@1"):
            expected = {1.0: "right", 0.0: "wrong", None: "unscored"}[score.value]
            assert found[score.model, score.domain, score.example_id] == expected
        if score.metric == "rouge_l":
            expected = "unscored" if score.value is None else "graded"
            assert found[score.model, score.domain, score.example_id] == expected


def test_headings_start_at_one_and_skip_no_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_tables_have_captions_plots_have_names_and_scrollers_can_be_reached(page: Page) -> None:
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(attributes.get("scope") for attributes in page.named("th"))
    assert all(attributes.get("aria-label") and attributes.get("role") == "img" for attributes in page.named("svg"))
    scrollers = [attributes for attributes in page.named("div") if attributes.get("class") == "scroll"]
    assert all(attributes.get("tabindex") == "0" and attributes.get("aria-label") for attributes in scrollers)
    assert len(page.named("figcaption")) == len(page.named("figure")) == len(page.named("svg"))


def test_the_marks_of_one_name_have_one_colour_in_every_plot(shown: Reported) -> None:
    """Each legend entry is a mark, hollow or full, and its name; the plots against cost name every system so."""
    colours: dict[str, set[str]] = {}
    for figure in re.findall(r'<svg(?:(?!</svg>).)*id="cost-(?:(?!</svg>).)*</svg>', shown.page, re.DOTALL):
        legend = figure[figure.index("legend_1") :]
        styles = re.findall(r"fill: (var\(--[a-z0-9-]+\)); stroke: (var\(--[a-z0-9-]+\))", legend)
        marks = [stroke if fill == "var(--paper)" else fill for fill, stroke in styles]
        names = re.findall(r"<text[^>]*>([^<]+)</text>", legend)
        for name, mark in zip(names, marks, strict=True):
            colours.setdefault(name, set()).add(mark)
    assert {"baseline", "experts", "code-expert"} <= set(colours)
    assert all(len(found) == 1 for found in colours.values())


def metric_view(name: str) -> MetricView:
    return MetricView(name=name, title=name, definition="", unit="", higher_is_better=True, values=(), comparisons=())


@pytest.mark.parametrize("num", [1, 7, 8, 9, 17])
def test_metrics_are_divided_over_tables_that_fit_the_page(num: int) -> None:
    metrics = [metric_view(f"metric {at}") for at in range(num)]
    parts = list(html._parts(metrics))
    assert [metric for part in parts for metric in part] == metrics
    lengths = {len(part) for part in parts}
    assert max(lengths) <= html.MAX_COLUMNS
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-num // html.MAX_COLUMNS)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/srv/env/bin/moe-ray", "evaluate", "my file.yaml"], "moe-ray evaluate 'my file.yaml'"),
        (["/srv/src/moe_ray/__main__.py", "report", "run"], "moe-ray report run"),
        (["jobs/evaluate.py", "a.yaml"], "evaluate.py a.yaml"),
    ],
)
def test_a_session_shows_the_command_as_one_would_type_it(argv: list[str], shown: str) -> None:
    assert html._command(argv) == shown


def test_colours_follow_the_theme(shown: Reported) -> None:
    body = shown.page[shown.page.index("<main") : shown.page.index("</main>")]
    assert "var(--series-1)" in body
    assert set(re.findall(r"#[0-9a-f]{6}\b", body)) == set()


def test_the_headline_and_the_warnings_come_before_any_number(reported: Reported) -> None:
    text = reported.page
    assert text.index("Synthetic data") < text.index("<h1>The experts beat the baseline") < text.index('id="quality"')
    for caution in (
        "Incomplete run",
        "Given up",
        "Unscored",
        "Weak sandbox",
        "network namespace",
        "Law Stack Exchange",
    ):
        assert text.index(caution) < text.index('id="quality"')


def test_the_same_run_gives_the_same_page_byte_for_byte(shown: Reported) -> None:
    write_report(shown.run)
    assert shown.run.report_path.read_text(encoding="utf-8") == shown.page


def test_the_templates_are_what_the_page_was_made_of(reported: Reported) -> None:
    templates = Path(browser.__file__).parent / "templates"
    for name in ("report.css", "page.js", "browser.js"):
        assert (templates / name).read_text(encoding="utf-8") in reported.page


def test_of_too_many_answers_whole_examples_are_kept(reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "MAX_ANSWERS", 50)
    table = reported.run.answers_table()
    examples = [one for domain in reported.summary.domain_metrics for one in reported.run.each_example(domain)]
    chosen = browser.choose_examples(table)
    payload = browser.browser_payload(reported.summary, chosen, table, examples, reported.scores)
    assert payload["total"] == 240
    assert len(payload["answers"]) == 48
    assert set(Counter((row["d"], row["e"]) for row in payload["answers"]).values()) == {4}


def test_a_cut_prompt_says_so_in_the_payload_by_how_many_tokens(reported: Reported) -> None:
    cut = {row["e"]: row["c"] for row in payload_of(reported.page)["answers"] if row["c"]}
    assert cut == {CUT_EXAMPLE: NUM_CUT}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "no such backend"])
def test_a_report_is_drawn_whatever_backend_the_environment_names(reported: Reported, backend: str) -> None:
    """A notebook's kernel names its own; matplotlib reads it when it is first imported, so a new process is needed."""
    command = [sys.executable, "-m", "moe_ray", "report", str(reported.run.path), "--brief"]
    environment = {**os.environ, "MPLBACKEND": backend}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Report:" in ended.stdout


def test_no_part_of_the_report_imports_matplotlib_outside_of_its_style() -> None:
    """Each such import would read MPLBACKEND."""
    for path in (Path(moe_ray.__file__).parent / "report").glob("*.py"):
        assert ("import matplotlib" in path.read_text(encoding="utf-8")) == (path.name == "svg.py"), path
