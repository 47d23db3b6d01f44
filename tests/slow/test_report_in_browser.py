"""The report in a real browser: its answers, its keys, its widths, its themes, and what is left of it on paper."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket")

from moe_ray.report.write import write_report
from moe_ray.scoring.score import write_scores
from tests.support.chromium import CHROMIUM, Tab, opened_browser
from tests.support.synthetic_routes import route
from tests.support.synthetic_run import ALL_METRICS, CUT_EXAMPLE, EVIL, NUM_CUT, synthetic_run

WIDTHS = (400, 800, 1400)
READY = "document.getElementById('browser')?.dataset.ready"
FOCUSED = "document.activeElement"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports by their number of models, and whether there is a router."""
    found = {}
    for name, num_models, num_answers in (("2", 2, 10), ("4", 4, 240), ("12", 12, 144), ("4 routed", 4, 240)):
        folder = tmp_path_factory.mktemp("run")
        run, scores = synthetic_run(folder, num_models=num_models, num_answers=num_answers)
        if name.endswith("routed"):
            route(run)
        write_scores(run.scores_path, scores, ALL_METRICS)
        write_report(run)
        found[name] = run.report_path
    return found


@pytest.fixture
def page(tab: Tab, pages: dict[str, Path]) -> Tab:
    """The report of four models, freshly opened on a wide screen."""
    tab.log.clear()
    tab.look_as(1400)
    tab.open(pages["4"], until=READY)
    return tab


def status(tab: Tab) -> str:
    return str(tab.evaluate("document.getElementById('answer-status').textContent"))


def press_until(tab: Tab, key: str, wanted: str, *, most: int = 200) -> None:
    """Press `key` until the expression `wanted` is true."""
    for _ in range(most):
        tab.press(key)
        if tab.evaluate(wanted):
            return
    raise AssertionError(f"{most} times {key} did not lead to {wanted}")


def test_the_answers_are_read_and_shown_without_an_error(page: Tab) -> None:
    assert status(page) == "240 answers, page 1 of 12"
    assert page.evaluate("document.querySelectorAll('#answer-list > li').length") == 20
    assert page.log == []


def test_markup_in_an_answer_is_shown_as_letters_and_runs_nothing(page: Tab) -> None:
    page.evaluate("document.querySelectorAll('#answer-list details').forEach((entry) => { entry.open = true; })")
    page.wait_for("document.querySelectorAll('#answer-list pre').length >= 60")
    shown = page.evaluate("[...document.querySelectorAll('#answer-list pre')].map((node) => node.textContent)")
    assert any(text.startswith(EVIL) for text in shown)
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.title").startswith("synthetic-example")
    assert page.log == []


def test_a_cut_prompt_an_error_and_an_unscored_answer_say_so_where_they_are_listed(page: Tab) -> None:
    choose = "document.getElementById('filter-problem').value = '{}';"
    choose += "document.getElementById('filter-problem').dispatchEvent(new Event('input'))"
    lines = "[...document.querySelectorAll('#answer-list summary')].map((node) => node.textContent)"
    page.evaluate(choose.format("cut"))
    page.wait_for("document.getElementById('answer-status').textContent.startsWith('4 answers')")
    assert all(CUT_EXAMPLE in line and f"prompt cut by {NUM_CUT} tokens" in line for line in page.evaluate(lines))
    page.evaluate(choose.format("error"))
    page.wait_for("document.getElementById('answer-status').textContent.startsWith('9 answers')")
    assert all("unscored" in line and "error" in line for line in page.evaluate(lines))


@pytest.mark.parametrize("name", ["2", "4", "12", "4 routed"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways_and_wide_tables_say_that_they_go_on(
    tab: Tab, pages: dict[str, Path], name: str, width: int
) -> None:
    tab.look_as(width)
    tab.open(pages[name], until=READY)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    wide = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1)"
    tab.wait_for(f"{wide}.every((box) => box.previousElementSibling.className === 'hint')")
    if width == min(WIDTHS):
        assert tab.evaluate(f"{wide}.length") > 0


@pytest.mark.parametrize(("name", "num_prices"), [("4", 0), ("4 routed", 2)])
def test_the_first_screen_says_who_wins_by_how_much_how_surely_and_at_which_cost_if_any(
    page: Tab, pages: dict[str, Path], name: str, num_prices: int
) -> None:
    """The models of "4" are of one size: no difference of their costs is more than noise, and none is named."""
    page.open(pages[name], until=READY)
    inside = "[...document.querySelectorAll('{}')].every((node) => node.getBoundingClientRect().bottom <= innerHeight)"
    for selector in (
        ".banner",
        "h1",
        *[".price"] * bool(num_prices),
        ".verdicts > li .figures",
        ".effect .difference",
        ".cautions li:first-child",
    ):
        assert page.evaluate(f"document.querySelectorAll('{selector}').length > 0 && {inside.format(selector)}"), (
            selector
        )
    assert page.evaluate("document.querySelectorAll('.price').length") == num_prices


def test_answers_to_queries_that_were_sent_elsewhere_are_listed_and_say_where_to(
    tab: Tab, pages: dict[str, Path]
) -> None:
    tab.log.clear()
    tab.look_as(1400)
    tab.open(pages["4 routed"], until=READY)
    choose = "document.getElementById('filter-problem')"
    tab.evaluate(f"{choose}.value = 'misrouted'; {choose}.dispatchEvent(new Event('input'))")
    tab.wait_for("!document.getElementById('answer-status').textContent.startsWith('240')")
    lines = tab.evaluate("[...document.querySelectorAll('#answer-list summary')].map((node) => node.textContent)")
    assert lines
    assert all("routed to " in line or "out-of-domain" in line for line in lines)
    tab.evaluate("document.querySelector('#answer-list details').open = true")
    tab.wait_for("document.querySelector('#answer-list .answer-body .flag')")
    assert "The router found" in tab.evaluate("document.querySelector('#answer-list .answer-body').textContent")
    assert tab.log == []


def test_every_control_is_reached_by_tab_and_shows_that_it_has_the_focus(page: Tab) -> None:
    selector = 'a[href], button:not(:disabled), input, select, summary, [tabindex="0"]'
    wanted = page.evaluate(
        f"[...document.querySelectorAll('{selector}')].map((node, at) => {{ node.dataset.stop = at; "
        "return node.checkVisibility() ? at : -1; }).filter((at) => at >= 0)"
    )
    reached = []
    for _ in range(len(wanted)):
        page.press("Tab")
        at, style = page.evaluate(
            f"[Number({FOCUSED}.dataset.stop), getComputedStyle({FOCUSED}).outlineStyle + "
            f"getComputedStyle({FOCUSED}).outlineWidth]"
        )
        assert style == "solid3px", page.evaluate(f"{FOCUSED}.outerHTML.slice(0, 80)")
        reached.append(at)
    assert reached == wanted


def test_the_skip_link_comes_first_shows_itself_and_leads_past_the_header(page: Tab) -> None:
    page.press("Tab")
    assert page.evaluate(f"{FOCUSED}.className") == "skip"
    assert page.evaluate(f"{FOCUSED}.getBoundingClientRect().left >= 0")
    page.press("Enter")
    page.wait_for("location.hash === '#main'")
    page.press("Tab")
    assert page.evaluate(f"document.getElementById('main').contains({FOCUSED})")


def test_the_answers_are_walked_opened_and_turned_by_keys_alone(page: Tab) -> None:
    line = "document.querySelectorAll('#answer-list summary')"
    press_until(page, "Tab", f"{FOCUSED} === {line}[0]")
    page.press("ArrowDown")
    page.press("ArrowDown")
    page.press("ArrowUp")
    assert page.evaluate(f"{FOCUSED} === {line}[1]")
    page.press("End")
    assert page.evaluate(f"{FOCUSED} === {line}[{line}.length - 1]")
    page.press("ArrowDown")
    assert page.evaluate(f"{FOCUSED} === {line}[{line}.length - 1]")
    page.press("Home")
    page.press("Enter")
    page.wait_for(f"{line}[0].parentElement.open && {line}[0].parentElement.querySelectorAll('pre').length === 3")
    page.press("Enter")
    page.wait_for(f"!{line}[0].parentElement.open")
    press_until(page, "Tab", f"{FOCUSED}.id === 'page-next'")
    page.press("Enter")
    page.wait_for("document.getElementById('answer-status').textContent === '240 answers, page 2 of 12'")
    assert page.evaluate(f"{FOCUSED}.id") == "answer-status"


def test_typing_a_text_finds_the_answers_that_have_it(page: Tab) -> None:
    press_until(page, "Tab", f"{FOCUSED}.id === 'filter-search'")
    for letter in CUT_EXAMPLE:
        page.press(letter)
    page.wait_for("document.getElementById('answer-status').textContent.startsWith('4 answers')")


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("dark", "paper"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_page_is_dark_only_on_a_dark_screen(tab: Tab, pages: dict[str, Path], dark: bool, paper: bool) -> None:
    tab.look_as(1400, dark=dark, paper=paper)
    tab.open(pages["4"], until=READY)
    ground, ink, plot = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color, "
        "getComputedStyle(document.querySelector('.plots svg text')).fill]"
    )
    is_dark = dark and not paper
    assert (luminance(ground) < 0.1) == (luminance(ink) > 0.5) == (luminance(plot) > 0.3) == is_dark


def test_motion_is_left_out_for_those_who_ask_for_none(tab: Tab, pages: dict[str, Path]) -> None:
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    tab.look_as(1400)
    tab.open(pages["2"], until=READY)
    assert tab.evaluate(behaviour) == "smooth"
    tab.look_as(1400, calm=True)
    assert tab.evaluate(behaviour) == "auto"


def test_on_paper_no_table_is_cut_and_what_needs_a_screen_is_left_out(tab: Tab, pages: dict[str, Path]) -> None:
    paper_px = 720
    tab.look_as(paper_px, paper=True)
    tab.open(pages["12"], until=READY)
    hidden = "['nav', '#browser', '.skip', '.hint'].map((name) => document.querySelector(name)).filter(Boolean)"
    assert tab.evaluate(f"{hidden}.every((node) => !node.checkVisibility())")
    assert tab.evaluate("document.querySelector('.only-print').checkVisibility()")
    tables = "[...document.querySelectorAll('table')].map((table) => table.getBoundingClientRect().right)"
    assert max(tab.evaluate(tables)) <= paper_px
    assert tab.printed().startswith(b"%PDF")
