"""What a user of the chat page does in the browser, and what they see."""

import json

from tests.support.chromium import Tab
from tests.support.fake_api import verdict

IDLE = "document.getElementById('stop').hidden"
CERTAIN = verdict(
    probabilities={"legal": 0.054, "biomedical": 0.942, "code": 0.004}, confidence=0.942, router_ms=4.2, queue_ms=12.0
)


def ask(tab: Tab, question: str = "What is metformin?") -> None:
    tab.evaluate("document.getElementById('question').focus()")
    tab.type(question)
    tab.press("Enter")


def ask_and_wait(tab: Tab, question: str = "What is metformin?") -> None:
    before = tab.evaluate("document.querySelectorAll('.answer.over').length")
    ask(tab, question)
    tab.wait_for(f"document.querySelectorAll('.answer.over').length > {before} && {IDLE}")


def shown(tab: Tab, selector: str) -> list[str]:
    """The texts of the visible elements that `selector` finds."""
    nodes = f"[...document.querySelectorAll({json.dumps(selector)})].filter((node) => node.checkVisibility())"
    found: list[str] = tab.evaluate(f"{nodes}.map((node) => node.textContent)")
    return found


def click(tab: Tab, words: str) -> None:
    """Click the visible button that says `words`."""
    tab.evaluate(
        "[...document.querySelectorAll('button')].filter((node) => node.checkVisibility())"
        f".find((node) => node.textContent.trim() === {json.dumps(words)}).click()"
    )
