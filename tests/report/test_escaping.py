"""Names and texts that try to leave their place: markup, script ends, quotes, formulas, letters that turn the line."""

import html
import json
import re

import pytest
from matplotlib.figure import Figure

from moe_ray.comparison.records import Summary
from moe_ray.formatting import words
from moe_ray.report import browser
from moe_ray.report.svg import svg_text
from moe_ray.report.write import render_report
from moe_ray.store.records import Manifest
from tests.report.conftest import Reported
from tests.report.pages import Page, payload_of
from tests.support.synthetic_run import EVIL

NAMES = {
    "script": EVIL,
    "attribute": "\"' onmouseover='alert(1)' x=\"",
    "entity": "&lt;b&gt;&amp;quot;&#34;",
    "comment": "<!-- <![CDATA[ ]]> -->",
    "template": "{{ 7 * 7 }}{% raw %}",
    "formula": r"$\frac{1}{$ and $x_1$",
    "right to left": "abc\u202e\u2066gpj.exe\u2069\u202c",
    "unwritable": "\u6a21\u578b \U0001f9ec e\u0301",
}


def renamed(reported: Reported, names: dict[str, str]) -> str:
    """The page of a run in which models and domains have other names."""

    def replaced(text: str) -> str:
        for old, new in names.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        return text

    summary = Summary.model_validate_json(replaced(reported.summary.model_dump_json()))
    manifest = Manifest.model_validate_json(replaced(reported.run.manifest().model_dump_json()))
    payload = json.loads(replaced(json.dumps(payload_of(reported.page))))
    return render_report(summary, manifest, payload)


@pytest.mark.parametrize("name", list(NAMES.values()), ids=list(NAMES))
def test_a_name_stays_a_name_whatever_it_is(reported: Reported, name: str) -> None:
    names = {"code-expert": name, "legal": f"{name}!"}
    text = renamed(reported, names)
    page = Page(text)
    assert page.open == []
    assert [given.get("id") for given in page.named("script")] == ["answer-data", None]
    assert not page.named("img")
    handlers = {(tag, key) for tag, given in page.elements for key in given if key.startswith("on")}
    assert handlers == {("form", "onsubmit")}
    options = [html.unescape(option) for option in re.findall(r"<option>([^<]*)</option>", text)]
    described = [given["aria-label"] or "" for given in page.named("svg")]
    for new in names.values():
        assert new in options
        assert any(words(new) in label or new in label for label in described)


def test_plots_of_domains_that_leave_nothing_of_their_names_in_an_id_still_have_their_own() -> None:
    names = ("\u6cd5\u5f8b", "\u533b\u5b66")
    plots = [svg_text(Figure(), name=f"quality-{name}", description="") for name in names]
    ids = [set(re.findall(r'\bid="([^"]+)"', plot)) for plot in plots]
    assert ids[0]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize("name", [NAMES["script"], NAMES["attribute"], NAMES["unwritable"]])
def test_a_name_stays_a_name_in_what_is_said_of_a_router(routed: Reported, name: str) -> None:
    page = Page(renamed(routed, {"legal": name}))
    assert page.open == []
    assert not page.named("img")
    assert {(tag, key) for tag, given in page.elements for key in given if key.startswith("on")} == {
        ("form", "onsubmit")
    }
    described = [given["aria-label"] or "" for given in page.named("svg")]
    assert any(f"{words(name)} taken for biomedical" in label for label in described)


@pytest.mark.parametrize("text", [*NAMES.values(), "\ud800 half a pair", "\x00\x1f\x7f"])
def test_an_answer_comes_out_of_the_page_as_it_went_in(text: str) -> None:
    encoded = browser.encoded({"t": text})
    assert re.fullmatch("[A-Za-z0-9+/=]+", encoded)
    assert payload_of(f'<script id="answer-data" type="application/octet-stream">{encoded}</script>')["t"] == text
