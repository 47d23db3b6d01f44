"""The chat page in a real browser on the real server: `moe-ray serve` with the demo's models and router."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

pytest.importorskip("websockets", reason="the browser is driven over a web socket")

from moe_ray.microworld.build import build_microworld
from tests.execution.commands import command
from tests.support.chat_page import IDLE, ask, ask_and_wait, click, shown
from tests.support.chromium import CHROMIUM
from tests.support.served import TIMEOUT_S, url_of, wait_for

if TYPE_CHECKING:
    from tests.support.chromium import Tab

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

MODELS = ("biomedical-expert", "legal-expert", "code-expert", "baseline", "talker")
READY = f"document.querySelectorAll('#experts li').length === {len(MODELS)}"
TALKER = {
    "path": "scripted/talker",
    "engine": "scripted",
    "engine_settings": {"text": "word " * 5000, "seconds_per_token": 0.05},
}
ANSWER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """The demo as it is served: its address, and a question of each of its domains."""

    url: str
    questions: dict[str, str]

    def post(self, path: str, **body: Any) -> Any:
        return httpx2.post(self.url + path, json=body, timeout=TIMEOUT_S).raise_for_status().json()

    def answer(self, model: str, question: str) -> str:
        """What the API answers to a question."""
        body = self.post("/v1/chat/completions", model=model, messages=[{"role": "user", "content": question}])
        return str(body["choices"][0]["message"]["content"])

    def num_running(self) -> float:
        text = httpx2.get(f"{self.url}/metrics", timeout=TIMEOUT_S).text
        return float(re.findall(r"^moe_ray_running_requests (\S+)$", text, re.MULTILINE)[0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    environment = {"HOME": str(folder), "MOE_RAY_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOE_RAY_CACHE", environment["MOE_RAY_CACHE"])
        experiment = build_microworld(folder / "microworld", "tiny", lambda train, specs: [train(one) for one in specs])
    overrides = (f"models.talker={json.dumps(TALKER)}", f"runtime.cpu_slots={len(MODELS)}", "serving.port=0")
    settings = [word for one in (*overrides, f"output.results_dir={folder}") for word in ("--set", one)]
    with command("serve", str(experiment), *settings, environment=environment) as process:
        yield Served(url=url_of(process), questions=_questions(folder / "microworld" / "data" / "test"))
        process.terminate()
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in out + err


def _questions(data: Path) -> dict[str, str]:
    legal, code = (
        json.loads((data / name).read_text().splitlines()[0]) for name in ("law_stackexchange.jsonl", "mbpp.jsonl")
    )
    return {"legal": legal["question_title"], "code": code["text"]}


@pytest.fixture
def chat(browser: "Tab", served: Served) -> Iterator["Tab"]:
    """The page freshly opened on a wide screen; left on the way out, so that no request outlives its test."""
    browser.log.clear()
    browser.look_as(1200)
    browser.open(served.url, until=READY)
    yield browser
    browser.call("Page.navigate", url="about:blank")


def pick(tab: "Tab", model: str, *, lane: int = 0) -> None:
    """Choose a model in the list of a column."""
    tab.evaluate(f"document.querySelectorAll('.picker')[{lane}].click()")
    tab.evaluate(f"document.querySelectorAll('.menu')[{lane}].querySelector('[value={json.dumps(model)}]').click()")
    tab.press("Enter")


def plain(text: str) -> str:
    """A text without white space, and without the fences of code, in whose place the page has a button."""
    return re.sub(r"\s|```(python)?|pythonCopy", "", text)


@pytest.mark.parametrize("domain", ["legal", "code"])
def test_a_question_is_routed_and_its_answer_and_the_verdict_are_those_of_the_api(
    chat: "Tab", served: Served, domain: str
) -> None:
    question = served.questions[domain]
    routed = served.post("/v1/route", messages=[{"role": "user", "content": question}])
    ask_and_wait(chat, question)
    model = routed["selected_model"]
    assert shown(chat, ".answer > h3 .name") == [model]
    assert plain(shown(chat, ".text")[0]) == plain(served.answer(model, question))
    widths = chat.evaluate("[...document.querySelectorAll('.fill')].map((node) => parseFloat(node.style.width))")
    scores = [100 * one["score"] for one in routed["classifications"]]
    assert widths == pytest.approx(scores, abs=0.06)
    assert [line for line in shown(chat, ".timings div") if line.startswith("router")]
    assert chat.log == []


def test_a_pinned_model_answers_the_next_question_whatever_the_router_says(chat: "Tab", served: Served) -> None:
    ask_and_wait(chat, served.questions["legal"])
    model = shown(chat, ".answer > h3 .name")[0]
    click(chat, f"Pin {model}")
    assert shown(chat, ".picker .name") == [f"Pinned: {model}"]
    ask_and_wait(chat, served.questions["code"])
    assert shown(chat, ".answer > h3 .name") == [model, model]
    assert shown(chat, ".why")[-1] == "Not routed: you chose this model."


def test_two_models_answer_side_by_side(chat: "Tab", served: Served) -> None:
    question = served.questions["code"]
    click(chat, "Compare")
    pick(chat, "code-expert")
    pick(chat, "legal-expert", lane=1)
    ask_and_wait(chat, question)
    assert shown(chat, ".answer > h3 .name") == ["code-expert", "legal-expert"]
    expected = [plain(served.answer(model, question)) for model in ("code-expert", "legal-expert")]
    assert [plain(text) for text in shown(chat, ".text")] == expected
    assert expected[0] != expected[1]


def test_an_answer_is_shown_while_it_streams_and_stop_ends_its_generation(chat: "Tab", served: Served) -> None:
    chat.evaluate("document.getElementById('max_tokens').value = '5000'")
    pick(chat, "talker")
    ask(chat, "Talk.")
    words = "(document.querySelector('.text')?.textContent ?? '').split('word').length"
    chat.wait_for(f"{words} > 5", timeout_s=ANSWER_S)
    assert shown(chat, "#stop") == ["Stop"]
    wait_for(lambda: served.num_running() == 1)  # ingresses report every second
    click(chat, "Stop")
    chat.wait_for(IDLE)
    num_words = chat.evaluate(words)
    wait_for(lambda: served.num_running() == 0)
    assert chat.evaluate(words) == num_words
    assert shown(chat, ".error p") == []
