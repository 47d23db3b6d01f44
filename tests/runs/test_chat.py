"""A conversation in this process: verdicts, turns of models, stopped and failed answers."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import yaml

from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.errors import ConfigError
from moe_ray.prompts.messages import Message
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from moe_ray.runs.chat import (
    ChatEnd,
    ChatError,
    ChatEvent,
    ChatLoading,
    ChatPiece,
    ChatVerdict,
    LocalChat,
    open_chat,
    require_name,
)
from tests.routing.queries import DOMAINS, nothing_reported, router_texts

LEGAL, CODE = "does the contract of the landlord name a lease", "how does a function sort a list"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "router"
    texts = router_texts((*DOMAINS, OTHER))
    fit_router(RouterConfig(kind="tfidf"), texts, device="cpu", report=nothing_reported)[0].save(path)
    return path


def experiment(folder: Path, router: Path | None, **settings: Mapping[str, Any]) -> Path:
    """One scripted model for each domain, and a baseline; `settings` are those of a model's engine."""
    (folder / "data.jsonl").write_text('{"id": "a", "question": "q", "reference": "r"}\n')
    names = {domain: f"{domain}-expert" for domain in DOMAINS}
    models = {
        name: {
            "path": f"scripted/{name}",
            "engine": "scripted",
            "engine_settings": {"text": f"I am {name}", **settings.get(name.partition("-")[0], {})},
        }
        for name in (*names.values(), "baseline")
    }
    content = {
        "name": "chat",
        "models": models,
        "baseline": "baseline",
        "domains": {
            domain: {"task": "free_text", "expert": expert, "data": {"source": "./data.jsonl"}}
            for domain, expert in names.items()
        },
    }
    if router is not None:
        content["router"] = {"kind": "tfidf", "path": str(router)}
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def ask(chat: LocalChat, question: str, model: str = "auto") -> list[ChatEvent]:
    return list(chat.answer([Message(role="user", content=question)], model))


def text_of(events: list[ChatEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, ChatPiece))


@pytest.fixture
def chat(tmp_path: Path, router: Path) -> Iterator[LocalChat]:
    found = open_chat(experiment(tmp_path, router))
    yield found
    found.close()


def pid_of(chat: LocalChat) -> int:
    assert chat._process is not None
    return chat._process._child.pid


def test_the_verdict_is_that_of_the_router_and_its_expert_answers(chat: LocalChat, router: Path) -> None:
    events = ask(chat, LEGAL)
    (expected,) = Router.load(router).route([LEGAL])
    assert isinstance(events[0], ChatVerdict)
    verdict = events[0].verdict
    assert verdict.probabilities == expected.probabilities
    assert (verdict.expert, verdict.out_of_domain, verdict.fell_back) == ("legal-expert", False, False)
    assert events[1] == ChatLoading("legal-expert")
    assert text_of(events) == "I am legal-expert"
    assert events[-1] == ChatEnd("stop", 3)


def test_a_model_stays_for_the_next_question_and_its_process_is_gone_before_another_loads(chat: LocalChat) -> None:
    ask(chat, LEGAL)
    first = pid_of(chat)
    assert ChatLoading("legal-expert") not in ask(chat, LEGAL)
    assert pid_of(chat) == first
    for event in chat.answer([Message(role="user", content=CODE)], "auto"):
        if isinstance(event, ChatPiece):
            assert not psutil.pid_exists(first)
    second = pid_of(chat)
    chat.close()
    assert not psutil.pid_exists(second)


def test_what_belongs_to_no_domain_goes_to_the_baseline(chat: LocalChat) -> None:
    events = ask(chat, "\t \n")
    assert isinstance(events[0], ChatVerdict)
    assert (events[0].verdict.expert, events[0].verdict.fell_back) == ("baseline", True)


def test_a_chosen_model_answers_without_the_router(chat: LocalChat) -> None:
    events = ask(chat, LEGAL, "code-expert")
    assert isinstance(events[0], ChatVerdict)
    assert events[0].verdict.probabilities == {}
    assert text_of(events) == "I am code-expert"


def test_closing_the_answer_stops_it_and_the_model_stays_loaded(tmp_path: Path, router: Path) -> None:
    slow = {"text": "word " * 1000, "seconds_per_token": 0.05}
    chat = open_chat(experiment(tmp_path, router, legal=slow))
    try:
        events = cast(Any, chat.answer([Message(role="user", content=LEGAL)], "auto"))
        assert any(isinstance(event, ChatPiece) for event in (next(events) for _ in range(3)))
        process = pid_of(chat)
        started = time.monotonic()
        events.close()
        assert time.monotonic() - started < PATIENCE_S
        second = cast(Any, chat.answer([Message(role="user", content=LEGAL)], "auto"))
        assert [type(next(second)) for _ in range(2)] == [ChatVerdict, ChatPiece]
        assert pid_of(chat) == process
        second.close()
    finally:
        chat.close()


def test_a_process_that_is_killed_fails_its_answer_and_the_next_question_loads_it_again(
    tmp_path: Path, router: Path
) -> None:
    slow = {"text": "word " * 1000, "seconds_per_token": 0.05}
    chat = open_chat(experiment(tmp_path, router, legal=slow))
    try:
        events = chat.answer([Message(role="user", content=LEGAL)], "auto")
        while not isinstance(next(events), ChatPiece):
            pass
        os.kill(pid_of(chat), signal.SIGKILL)
        with pytest.raises(ChatError, match=r"legal-expert: the model's process has ended \(exit status -9\)"):
            list(events)
        assert text_of(ask(chat, LEGAL, "baseline")) == "I am baseline"
    finally:
        chat.close()


def test_a_model_that_cannot_be_loaded_fails_its_question_alone(tmp_path: Path, router: Path) -> None:
    chat = open_chat(experiment(tmp_path, router, legal={"fail_to_load": "its weights are damaged"}))
    try:
        with pytest.raises(ChatError, match=r"legal-expert: .*its weights are damaged"):
            ask(chat, LEGAL)
        assert text_of(ask(chat, CODE)) == "I am code-expert"
    finally:
        chat.close()


def test_a_model_process_ends_with_its_parent() -> None:
    """The pipe's end is all that tells it."""
    import subprocess
    import sys

    code = (
        "from moe_ray.runs.chat_process import *; from moe_ray.config.schema import ModelConfig; import os\n"
        "spec = ModelSpec(model=ModelConfig(path='scripted/a', engine='scripted', engine_settings={'text': 'a'}),"
        " limits=BatchLimits(max_rows=1, cache_memory_bytes=1), cpu_threads=1)\n"
        "print(ModelProcess(spec)._child.pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    child = int(done.stdout)
    deadline = time.monotonic() + PATIENCE_S
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(child)


def test_names_have_auto_first_and_only_with_a_router(tmp_path: Path, router: Path, chat: LocalChat) -> None:
    assert chat.names[0] == "auto"
    (tmp_path / "other").mkdir()
    without = open_chat(experiment(tmp_path / "other", None))
    assert without.names[0] == "baseline"
    with pytest.raises(ConfigError, match="there is no router"):
        require_name(without, "auto", where="--model")
    with pytest.raises(ConfigError, match="did you mean code-expert"):
        require_name(without, "code-exprt", where="--model")


def test_a_router_that_is_not_trained_yet_is_refused_with_the_command(tmp_path: Path) -> None:
    path = experiment(tmp_path, None)
    content = yaml.safe_load(path.read_text())
    content |= {"router": {"kind": "tfidf"}, "output": {"results_dir": str(tmp_path / "results")}}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="not trained yet") as error:
        open_chat(path)
    assert f"moe-ray router train {path}" in str(error.value)
