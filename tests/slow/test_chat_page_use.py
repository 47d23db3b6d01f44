"""The chat page by keyboard, on a phone, in the dark, without motion, and while it scrolls."""

import re
import threading

import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket")

from tests.support.chat_page import CERTAIN, IDLE, ask, ask_and_wait, click, shown
from tests.support.chromium import CHROMIUM, Tab
from tests.support.fake_api import FakeApi, Reply, end, text, thoughts, verdict

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


def test_the_picker_lists_every_model_with_its_role_and_state_and_is_worked_by_keys(chat: Tab, api: FakeApi) -> None:
    chat.press("Tab")
    assert chat.evaluate("document.activeElement.className") == "picker"
    chat.press("Enter")
    chat.wait_for("document.querySelector(':popover-open')")
    assert shown(chat, ".menu .words") == [
        "Autothe router chooses for each question",
        "biomedical-expertexpert for biomedical · loaded",
        "legal-expertexpert for legal · not loaded",
        "code-expertexpert for code · loaded",
        "general-7bbaseline · loaded",
    ]
    chat.wait_for("document.activeElement.value === 'auto'")
    chat.press("ArrowDown")
    chat.press("ArrowDown")
    chat.press("Enter")
    assert shown(chat, ".picker .name") == ["legal-expert"]
    ask_and_wait(chat)
    assert api.next_request().body["model"] == "legal-expert"


def test_shift_and_enter_start_a_new_line_and_nothing_is_sent_while_an_answer_streams(chat: Tab, api: FakeApi) -> None:
    go = threading.Event()
    api.reply = lambda body: Reply([text("A"), go, *end()])
    chat.type("One")
    chat.press("Enter", shift=True)
    chat.type("two")
    chat.press("Enter")
    assert api.next_request().body["messages"][0]["content"] == "One\ntwo"
    ask(chat, "Too early")
    assert chat.evaluate("document.getElementById('question').value") == "Too early"
    assert len(shown(chat, ".turn")) == 1
    go.set()
    chat.wait_for(IDLE)


def test_every_control_is_reached_by_tab_has_a_name_and_shows_its_focus(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply([thoughts("Hm."), text("```\nx\n```", moe_ray=CERTAIN), *end()])
    ask_and_wait(chat)
    selector = "a[href], button, textarea, summary, [tabindex]"
    wanted = chat.evaluate(
        f"[...document.querySelectorAll('{selector}')].filter((node) => node.checkVisibility())"
        ".map((node, at) => { node.dataset.stop = at; return at; })"
    )
    reached = set()
    for _ in range(len(wanted) + 2):
        chat.press("Tab")
        at, style, name = chat.evaluate(
            "((node) => [Number(node.dataset.stop), getComputedStyle(node.matches('textarea') ? "
            "node.parentElement : node)[node.matches('textarea') ? 'boxShadow' : 'outlineStyle'], "
            "(node.ariaLabel ?? node.labels?.[0]?.textContent ?? '') || node.textContent])(document.activeElement)"
        )
        if at is not None:
            reached.add(at)
            assert style != "none"
            assert name.strip()
    assert reached == set(wanted)


@pytest.mark.parametrize("is_compared", [False, True])
def test_at_360_px_nothing_scrolls_sideways(chat: Tab, api: FakeApi, is_compared: bool) -> None:
    wide = f"{'w' * 400}\n\n```\n{'x = 1; ' * 60}\n```\n\n| {'a | ' * 30}\n| {'---|' * 30}\n| {'b | ' * 30}\n"
    long_name = {f"domain-{'x' * 60}": 0.9, "b": 0.1}
    said = verdict("e" * 80, probabilities=long_name, confidence=0.9, out_of_domain=True, fell_back=True)
    api.reply = lambda body: Reply([text(wide, moe_ray=said), *end()])
    chat.look_as(360, 740)
    if is_compared:
        click(chat, "Compare")
    ask_and_wait(chat, "q" * 300)
    assert chat.evaluate("document.documentElement.scrollWidth") == 360
    assert chat.evaluate("document.getElementById('log').scrollWidth") <= 360
    click(chat, f"Pin {'e' * 80}")
    assert chat.evaluate("document.getElementById('composer').scrollWidth") <= 360
    assert chat.evaluate("document.getElementById('send').getBoundingClientRect().bottom") <= 740


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_dark_on_a_dark_screen_and_all_text_stands_out(chat: Tab, api: FakeApi, dark: bool) -> None:
    said = verdict("general-7b", probabilities={"a": 0.5, "b": 0.5}, out_of_domain=True, fell_back=True)
    answer = "Yes `code` [link](https://a.example/).\n\n> quote\n\n```py\nx\n```"
    api.reply = lambda body: Reply([text(answer, moe_ray=said), *end()])
    chat.look_as(1200, dark=dark)
    ask_and_wait(chat)
    found = chat.evaluate(
        "[...document.querySelectorAll('body *')].filter((node) => node.checkVisibility() && "
        "[...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())).map((node) => { "
        "let ground = node; while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') "
        "ground = ground.parentElement; return [node.textContent, getComputedStyle(node).color, "
        "getComputedStyle(ground).backgroundColor]; })"
    )
    assert (luminance(chat.evaluate("getComputedStyle(document.body).backgroundColor")) < 0.1) == dark
    for words, ink, ground in found:
        low, high = sorted((luminance(ink), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, words
    assert len(found) > 20


def test_nothing_moves_for_those_who_ask_for_no_motion(chat: Tab, api: FakeApi) -> None:
    go = threading.Event()
    api.reply = lambda body: Reply([go, *end()])
    ask(chat)
    name = "getComputedStyle(document.querySelector('.waiting'), '::before').animationName"
    assert chat.evaluate(name) == "pulse"
    chat.look_as(1200, calm=True)
    assert chat.evaluate(name) == "none"
    go.set()
    chat.wait_for(IDLE)


def test_reading_further_up_is_not_disturbed_by_the_stream(chat: Tab, api: FakeApi) -> None:
    more, last = threading.Event(), threading.Event()
    long = "line\n\n" * 100
    api.reply = lambda body: Reply([text(long, moe_ray=CERTAIN), more, text(long), last, *end()])
    ask(chat)
    log = "document.getElementById('log')"
    chat.wait_for(f"{log}.scrollTop > 500 && {log}.scrollHeight - {log}.scrollTop - {log}.clientHeight < 2")
    chat.evaluate(f"{log}.scrollTop = 100")
    chat.wait_for("!document.getElementById('latest').hidden")
    more.set()
    chat.wait_for("document.querySelectorAll('.text p').length === 200")
    assert chat.evaluate(f"{log}.scrollTop") == 100
    click(chat, "Latest ↓")
    chat.wait_for("document.getElementById('latest').hidden")
    last.set()
    chat.wait_for(IDLE)
