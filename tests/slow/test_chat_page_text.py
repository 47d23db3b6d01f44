"""Text of a model on the chat page: rendered as Markdown, never as markup, and without a request to another server."""

import json

import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket")

from tests.support.chat_page import CERTAIN, ask_and_wait, shown
from tests.support.chromium import CHROMIUM, Tab
from tests.support.fake_api import FakeApi, Reply, end, text

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script>\n\n"
    "[one](javascript:document.title='owned') [two](data:text/html,x) [three](//evil.example/) "
    "![pixel](https://evil.example/pixel.png)\n\n"
    "> <iframe src=https://evil.example></iframe>\n\n"
    "- <style>* { display: none }</style>\n\n"
    "| <b>a</b> | b |\n|---|---|\n| <svg onload=x> | `|` |\n\n"
    "```<script>\n<img src=y>\n"
)


def test_what_a_model_wrote_stays_text(chat: Tab, api: FakeApi) -> None:
    cut = HOSTILE.index("</script>") + 4
    api.reply = lambda body: Reply([text(HOSTILE[:cut], moe_ray=CERTAIN), text(HOSTILE[cut:]), *end()])
    ask_and_wait(chat, HOSTILE)
    tags = "[...document.querySelectorAll('#turns *')].map((node) => node.localName)"
    assert not {"img", "script", "iframe", "style", "svg", "b"} & set(chat.evaluate(tags))
    answer = shown(chat, ".text")[0]
    for part in ("<img src=x onerror=", "<script>document.title", "[one](javascript:", "<iframe", "<svg onload=x>"):
        assert part in answer
    links = chat.evaluate(
        "[...document.querySelectorAll('#turns a')].map((node) => [node.href, node.rel, node.target])"
    )
    assert links == [[f"https://evil.example/{name}", "noopener noreferrer", "_blank"] for name in ("pixel.png", "")]
    assert shown(chat, ".code code") == ["<img src=y>\n"]
    assert chat.evaluate("document.title") == "moe_ray chat"
    assert chat.log == []


@pytest.mark.parametrize(
    "hostile",
    [
        "**a __b ~~c *" * 8000,
        "[" * 50_000 + "](" * 20_000,
        "".join("`" * (1 + at % 200) + "x" for at in range(2000)),
        "> " * 20_000 + "- " * 20_000,
        "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + ("|" + "b|" * 200 + "\n") * 100,
        "https://a" + "." * 50_000 + "x",
        "# " + " " * 50_000 + "#" * 50_000 + "x",
        "- a\n" + "\n" * 50_000 + "b",
    ],
    ids=["emphasis", "brackets", "backticks", "nesting", "huge table", "address", "heading", "blank lines"],
)
def test_a_text_made_to_be_slow_is_rendered_within_seconds(chat: Tab, hostile: str) -> None:
    root = "document.createElement('div')"
    script = f"import('/markdown.js').then(({{ Markdown }}) => {{ const root = {root}; const from = performance.now(); "
    script += f"new Markdown(root).update({json.dumps(hostile)}); return performance.now() - from; }})"
    assert chat.evaluate(script) < 5000


def test_streamed_in_any_pieces_a_text_renders_as_it_does_in_one(chat: Tab) -> None:
    """The renderer settles blocks as it goes: no cut may change the outcome."""
    source = (
        "Intro *a*\n---b\n***\n1. one\n   - in\n\n     more\n2. two\n\nlazy\n| a | b |\n|:--|--:|\n| 1 | `x|y` |\n"
        "# H\n> q\n> r\n\n```py\nx = 1\n\n# no\n```\nend __b__ snake_case_name <br> "
        "https://a.example/b_c_d.\n- x\n---\n-y"
    )
    script = (
        "import('/markdown.js').then(({ Markdown }) => { const text = %s; "
        "const shape = (root) => root.querySelectorAll('*').length + [...root.querySelectorAll('*')]"
        ".map((node) => node.localName + node.textContent).join('/'); "
        "const whole = document.createElement('div'); new Markdown(whole).update(text); const wanted = shape(whole); "
        "return [1, 2, 3, 5, 7, 11].filter((step) => { const root = document.createElement('div'); "
        "const view = new Markdown(root); for (let at = step; at < text.length + step; at += step) "
        "view.update(text.slice(0, at)); return shape(root) !== wanted; }); })"
    )
    assert chat.evaluate(script % json.dumps(source)) == []


def test_code_is_copied_with_its_button(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply([text("```python\nprint(1)\n```", moe_ray=CERTAIN), *end()])
    chat.evaluate("navigator.clipboard.writeText = async (words) => { window.copied = words; }")
    ask_and_wait(chat)
    chat.evaluate("document.querySelector('.code button').click()")
    chat.wait_for("document.querySelector('.code button').textContent === 'Copied'")
    assert chat.evaluate("window.copied") == "print(1)"


def test_the_page_asks_its_own_server_only(chat: Tab, api: FakeApi) -> None:
    api.reply = lambda body: Reply([text(HOSTILE + "\n```\nhttps://evil.example/", moe_ray=CERTAIN), *end()])
    ask_and_wait(chat)
    names = chat.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")
    assert len(names) > 5
    assert {name for name in names if not name.startswith((api.url, "data:"))} == set()
    assert chat.log == []
    blocked = chat.evaluate("fetch('https://evil.example/').then(() => 'sent', () => 'blocked')")
    assert blocked == "blocked"
    assert any("Content Security Policy" in entry for entry in chat.log)
