"""`moe-ray chat`: a conversation in the terminal, or one answer to a question from a pipe."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

from moe_ray.characters import one_line
from moe_ray.cli.terminal import Terminal, output_console, write_piece
from moe_ray.errors import ConfigError, RunFailedError
from moe_ray.execution import interruption
from moe_ray.prompts.messages import Message
from moe_ray.runs.chat import (
    ChatEnd,
    ChatError,
    ChatEvent,
    ChatLoading,
    ChatModels,
    ChatPiece,
    ChatVerdict,
    open_chat,
    require_name,
)
from moe_ray.serving.calls import RoutingVerdict

HELP = """\
  /new              begin a new conversation
  /model [NAME]     choose the model, or auto; without NAME list them
  /help             show this
  exit, Ctrl-D      quit
Ctrl-C stops an answer; at the prompt it quits. A question that begins with / is written with a space before it."""
PROMPT = "> "
MAX_PIPED_CHARACTERS = 4 << 20
NOTE, REASONING, FAILURE = "dim", "dim italic", "bold red"


def chat_in_terminal(
    target: Path | None,
    url: str | None,
    *,
    model: str | None,
    key_file: Path | None,
    overrides: tuple[str, ...],
    trust: bool,
) -> None:
    """Chat with the models of `target` or those behind `url`. Without a terminal, answer the question on stdin."""
    if (target is None) == (url is None):
        raise ConfigError(
            "name either an experiment file or a run directory, or --url",
            where="moe-ray chat",
            remedy="moe-ray chat FILE, or moe-ray chat --url http://127.0.0.1:8000",
        )
    if url is None and key_file is not None:
        raise ConfigError("only --url takes a key", where="--api-key-file", remedy="remove it")
    question = None if sys.stdin.isatty() and sys.stdout.isatty() else _piped()
    with contextlib.closing(_opened(target, url, key_file, overrides, trust=trust)) as models:
        name = models.names[0] if model is None else require_name(models, model, where="--model")
        if question is None:
            Conversation(models, output_console(soft_wrap=True), name).run()
        else:
            _answer_once(models, name, question)


def _opened(
    target: Path | None, url: str | None, key_file: Path | None, overrides: tuple[str, ...], *, trust: bool
) -> ChatModels:
    if target is not None:
        return open_chat(target, overrides, trust=trust)
    from moe_ray.runs.chat_client import RemoteChat, read_key

    if overrides or trust:
        raise ConfigError("a served system has its own experiment file", where="--set, --trust", remedy="remove them")
    return RemoteChat(str(url), None if key_file is None else read_key(key_file))


def _piped() -> str:
    text = sys.stdin.read(MAX_PIPED_CHARACTERS + 1)
    if not text.strip():
        raise ConfigError(
            "standard input is empty", where="moe-ray chat", remedy="pipe a question in, or start it in a terminal"
        )
    if len(text) > MAX_PIPED_CHARACTERS:
        raise ConfigError(f"the question is longer than {MAX_PIPED_CHARACTERS:,} characters", where="standard input")
    return text.strip()


def _answer_once(models: ChatModels, model: str, question: str) -> None:
    """Print the answer alone, as it comes."""
    try:
        for event in models.answer([Message(role="user", content=question)], model):
            if isinstance(event, ChatPiece):
                write_piece(event.text)
    except ChatError as error:
        raise RunFailedError(str(error)) from error
    write_piece("\n")


class Conversation:
    """The loop of questions and answers.

    Args:
        read: returns the next line; raises `EOFError` at the end.
    """

    def __init__(
        self, models: ChatModels, console: Terminal, model: str, read: Callable[[str], str] | None = None
    ) -> None:
        self._models = models
        self._console = console
        self._model = model
        self._read = read or _line_editor()
        self._messages: list[Message] = []

    def run(self) -> None:
        """Answer questions until the user quits. Ctrl-C at the prompt raises `KeyboardInterrupt`."""
        self._note(f"{_models_line(self._models)}. /help lists commands; exit or Ctrl-D quits.")
        while True:
            try:
                line = self._read(PROMPT)
            except EOFError:
                self._console.print()
                return
            if line.strip() in ("exit", "quit", "/exit", "/quit"):
                return
            if line.startswith("/"):
                self._command(*line.split(maxsplit=1))
            elif line.strip():
                self._ask(line.strip())

    def _command(self, name: str, argument: str = "") -> None:
        argument = argument.strip()
        match name:
            case "/new":
                self._messages.clear()
                self._note("A new conversation.")
            case "/model" if not argument:
                self._note(f"{_models_line(self._models)}; now {self._model}")
            case "/model":
                try:
                    self._model = require_name(self._models, argument, where="/model")
                except ConfigError as error:
                    self._console.print(str(error), style=FAILURE)
                else:
                    self._note(f"{self._model} answers.")
            case "/help":
                self._console.print(HELP)
            case _:
                self._console.print(f"There is no {one_line(name)}; /help lists the commands.", style=FAILURE)

    def _ask(self, question: str) -> None:
        """Answer, and remember the answer, also one that was stopped; a question without any is forgotten."""
        self._messages.append(Message(role="user", content=question))
        answer: list[str] = []
        # A generator, whatever the protocol says: closing it is what stops the answer.
        events = cast("Generator[ChatEvent]", self._models.answer(tuple(self._messages), self._model))
        try:
            with contextlib.closing(events):
                self._show(events, answer)
        except KeyboardInterrupt:
            interruption.accept()
            self._note("\n(stopped)")
        except ChatError as error:
            self._console.print(f"\n{error}", style=FAILURE)
            answer.clear()
        if text := "".join(answer):
            self._messages.append(Message(role="assistant", content=text))
        else:
            self._messages.pop()

    def _show(self, events: Iterator[ChatEvent], answer: list[str]) -> None:
        started_s, is_thinking = time.perf_counter(), False
        for event in events:
            match event:
                case ChatVerdict(verdict):
                    self._note(verdict_line(verdict))
                case ChatLoading(model):
                    self._note(f"Loading {model} ...")
                    started_s = time.perf_counter()
                case ChatPiece(text, reasoning):
                    if reasoning:
                        is_thinking = True
                        self._console.print(reasoning, style=REASONING, end="")
                    if text and is_thinking:
                        is_thinking = False
                        write_piece("\n\n")
                    write_piece(text)
                    answer.append(text)
                case ChatEnd(reason, num_tokens):
                    self._note(f"\n{_figures(reason, num_tokens, time.perf_counter() - started_s)}")

    def _note(self, text: str) -> None:
        self._console.print(text, style=NOTE)


def verdict_line(verdict: RoutingVerdict) -> str:
    """Return one line: the likeliest domain, how confident the router is, and the model that answers."""
    expert = one_line(verdict.expert)
    if not verdict.probabilities:
        return expert
    domain = max(verdict.probabilities, key=lambda name: verdict.probabilities[name])
    shown = f"{one_line(domain)} {verdict.probabilities[domain]:.1%}"
    if verdict.out_of_domain:
        shown = f"out of domain (likeliest: {shown})"
    pinned = f", {one_line(verdict.pinned)}" if verdict.pinned else ""
    return f"{shown} -> {expert}{', the baseline' if verdict.fell_back else ''}{pinned}"


def _figures(reason: str, num_tokens: int | None, seconds: float) -> str:
    tokens = "" if num_tokens is None else f"{num_tokens} tokens, "
    cut = "; cut at the token limit" if reason == "length" else ""
    return f"({tokens}{seconds:.1f} s{cut})"


def _models_line(models: ChatModels) -> str:
    return f"Models: {', '.join(map(one_line, models.names))}"


def _line_editor() -> Callable[[str], str]:
    """`input`, with the arrow keys and a history of this session where readline is installed."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() uses it once it is imported
    return input
