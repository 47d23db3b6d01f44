"""`moe-ray chat`: the loop of questions and answers, pipes, and what is refused."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from moe_ray.cli.chat import Conversation, verdict_line
from moe_ray.cli.terminal import EXIT_RUN_FAILED, EXIT_USAGE, Terminal
from moe_ray.prompts.messages import Message
from moe_ray.runs.chat import ChatEnd, ChatError, ChatEvent, ChatLoading, ChatPiece, ChatVerdict
from moe_ray.serving.calls import RoutingVerdict
from tests.support import commands
from tests.support.fake_api import Reply, end, served_api, text

HOSTILE = "\x1b]0;owned\x07\x1b[2Jyes\r\u202egnp.exe"
VERDICT = RoutingVerdict(
    requested="auto", expert="desk", probabilities={"tickets": 0.9, "manual": 0.1}, confidence=0.9, out_of_domain=False
)


class FakeModels:
    """Answers from a list: pieces, or an exception to raise after the first piece."""

    names = ("auto", "desk", "clerk")

    def __init__(self, *answers: str | BaseException) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[tuple[Message, ...], str]] = []

    def answer(self, messages: Sequence[Message], model: str) -> Iterator[ChatEvent]:
        self.asked.append((tuple(messages), model))
        answer = self._answers.pop(0)
        yield ChatVerdict(VERDICT)
        yield ChatLoading("desk")
        if isinstance(answer, BaseException):
            yield ChatPiece("half")
            raise answer
        yield ChatPiece(reasoning="Let me think.")
        for word in answer.split(" "):
            yield ChatPiece(f"{word} ")
        yield ChatEnd("stop", 2)

    def close(self) -> None:
        pass


def converse(models: FakeModels, *lines: str, capsys: pytest.CaptureFixture[str] | None = None) -> str:
    left = list(lines)

    def read(_prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    Conversation(models, Terminal(soft_wrap=True), "auto", read).run()
    return capsys.readouterr().out if capsys is not None else ""


def test_an_answer_has_its_verdict_before_it_and_its_figures_after(capsys: pytest.CaptureFixture[str]) -> None:
    shown = converse(FakeModels("It is billing."), "Where is my invoice?", capsys=capsys)
    places = [shown.index(part) for part in ("tickets 90.0% -> desk", "Let me think.", "It is billing.", "2 tokens")]
    assert places == sorted(places)


def test_the_conversation_is_remembered_until_a_new_one_begins() -> None:
    models = FakeModels("one", "two", "three")
    converse(models, "first", "second", "/new", "third")
    assert [[message.content.strip() for message in messages] for messages, _ in models.asked] == [
        ["first"],
        ["first", "one", "second"],
        ["third"],
    ]


def test_a_failed_question_is_forgotten_and_a_stopped_answer_kept(capsys: pytest.CaptureFixture[str]) -> None:
    models = FakeModels(ChatError("the model's process has ended"), KeyboardInterrupt(), "three")
    shown = converse(models, "first", "second", "third", capsys=capsys)
    assert "process has ended" in shown
    assert "(stopped)" in shown
    assert [message.content for message in models.asked[-1][0]] == ["second", "half", "third"]


def test_model_chooses_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    models = FakeModels("one", "two")
    shown = converse(models, "/model", "/model clerc", "/model clerk", "a", "/model auto", "b", capsys=capsys)
    assert "auto, desk, clerk" in shown
    assert "did you mean clerk" in shown
    assert [model for _, model in models.asked] == ["clerk", "auto"]


@pytest.mark.parametrize("word", ["exit", "quit", " exit ", "/exit", "/quit"])
def test_exit_quits(word: str) -> None:
    models = FakeModels()
    converse(models, "", "   ", word, "never asked")
    assert models.asked == []


def test_help_and_unknown_commands_ask_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    models = FakeModels()
    shown = converse(models, "/help", "/nwe", capsys=capsys)
    assert "/new" in shown
    assert "There is no /nwe" in shown
    assert models.asked == []


def test_ctrl_c_at_the_prompt_quits() -> None:
    def read(_prompt: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Conversation(FakeModels(), Terminal(), "auto", read).run()


def test_hostile_text_is_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = converse(FakeModels(HOSTILE, ChatError(HOSTILE)), "a", "b", f"/{HOSTILE}", capsys=capsys)
    assert not any(character in shown for character in "\x1b\x07\u202e")
    assert "\\u001b[2Jyes" in shown


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "tickets 90.0% -> desk"),
        ({"out_of_domain": True, "fell_back": True}, "out of domain (likeliest: tickets 90.0%) -> desk, the baseline"),
        ({"probabilities": {}}, "desk"),
        ({"pinned": "session"}, "tickets 90.0% -> desk, session"),
    ],
)
def test_the_verdict_is_one_line(changes: dict[str, object], line: str) -> None:
    from dataclasses import replace

    assert verdict_line(replace(VERDICT, **changes)) == line  # type: ignore[arg-type]


def experiment(folder: Path, said: str) -> Path:
    model = {"path": "scripted/a", "engine": "scripted", "engine_settings": {"text": said}}
    content = {
        "name": "chat",
        "models": {"base": model},
        "baseline": "base",
        "domains": {"any": {"task": "free_text", "data": {"source": "./data.jsonl"}}},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def piped(monkeypatch: pytest.MonkeyPatch, question: str, *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(question))
    return commands.run("chat", *arguments)


def test_a_piped_question_gets_the_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = experiment(tmp_path, "def f():\n\treturn 1")
    assert piped(monkeypatch, "write a\nfunction\n", path) == (0, "def f():\n\treturn 1\n")


def test_a_piped_answer_is_safe_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, shown = piped(monkeypatch, "?", experiment(tmp_path, HOSTILE))
    assert code == 0
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_piped_question_that_fails_ends_with_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served_api() as api:
        api.reply = lambda _body: Reply(error="130 requests wait", status=503)
        code, shown = piped(monkeypatch, "?", "--url", api.url)
    assert code == EXIT_RUN_FAILED
    assert "130 requests wait" in shown


def test_a_served_system_answers_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-sixteen-characters\n")
    with served_api() as api:
        api.key = "a-key-of-sixteen-characters"
        api.reply = lambda _body: Reply(steps=[text("Yes"), *end()])
        code, shown = piped(monkeypatch, "Is it?\n", "--url", api.url, "--api-key-file", keys, "--model", "code-expert")
        assert (code, shown) == (0, "Yes\n")
        assert api.next_request().body["model"] == "code-expert"


@pytest.mark.parametrize(
    ("arguments", "question", "said"),
    [
        ((), "?", "name either"),
        (("FILE", "--url", "http://127.0.0.1:1"), "?", "name either"),
        (("FILE", "--api-key-file", "keys"), "?", "only --url takes a key"),
        (("FILE",), " \n", "standard input is empty"),
        (("FILE", "--model", "bsae"), "?", "did you mean base"),
        (("FILE", "--model", "auto"), "?", "there is no router"),
        (("--url", "http://127.0.0.1:1"), "?", "nothing answers there"),
        (("--url", "nonsense"), "?", "not a URL"),
        (("--url", "http://127.0.0.1:1", "--set", "a=b"), "?", "experiment file"),
        (("missing.yaml",), "?", "no such file"),
    ],
)
def test_usage_errors_end_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], question: str, said: str
) -> None:
    path = experiment(tmp_path, "yes")
    code, shown = piped(monkeypatch, question, *(path if one == "FILE" else one for one in arguments))
    assert code == EXIT_USAGE
    assert said in shown
    assert shown.count("error:") == 1
    assert "Traceback" not in shown
