"""`moe-ray chat` on a real terminal, with tiny models of transformers and a trained router."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from moe_ray.characters import printable
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.routing.training import fit_router
from tests.routing.queries import DOMAINS, nothing_reported, router_texts
from tests.support.tiny_models import make_tiny_checkpoint

pytestmark = pytest.mark.slow

PATIENCE_S = 180.0
LEGAL, CODE = "does the contract of the landlord name a lease", "how does a function sort a list"
RUN = "from moe_ray.entry import main; main()"


class TerminalSession:
    """`moe-ray chat` on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self._master, terminal = pty.openpty()
        login = f"import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); {RUN}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", login, "chat", *map(str, arguments)],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**os.environ, "TERM": "dumb", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        os.close(terminal)
        self._unread = ""

    def until(self, mark: str) -> str:
        """Read until `mark` is shown, and return what was shown up to it."""
        deadline = time.monotonic() + PATIENCE_S
        while mark not in self._unread:
            assert time.monotonic() < deadline, f"{mark!r} does not come after {self._unread!r}"
            ready, _, _ = select.select([self._master], [], [], 0.5)
            try:
                self._unread += os.read(self._master, 4096).decode(errors="replace") if ready else ""
            except OSError:  # the other end is closed: the process has ended
                raise AssertionError(f"{mark!r} is missing in {self._unread!r}") from None
        shown, _, self._unread = self._unread.partition(mark)
        return shown

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def models(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def close(self) -> int:
        code = self.process.wait(PATIENCE_S)
        os.close(self._master)
        return code


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    texts = router_texts((*DOMAINS, OTHER))
    fit_router(RouterConfig(kind="tfidf"), texts, device="cpu", report=nothing_reported)[0].save(folder / "router")
    (folder / "data.jsonl").write_text('{"id": "a", "question": "q", "reference": "r"}\n')
    names = (*DOMAINS, "base")
    for seed, name in enumerate(names):
        make_tiny_checkpoint(folder / name, "llama", seed=seed)
    content = {
        "name": "chat",
        "models": {name: {"path": f"./{name}"} for name in names},
        "baseline": "base",
        "domains": {
            domain: {"task": "free_text", "expert": domain, "data": {"source": "./data.jsonl"}} for domain in DOMAINS
        },
        "router": {"kind": "tfidf", "path": "./router"},
        "decoding": {"max_new_tokens": 12},
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def session(experiment: Path) -> Iterator[TerminalSession]:
    found = TerminalSession(experiment)
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.process.wait()


def test_two_questions_are_answered_by_two_experts_that_take_turns(session: TerminalSession) -> None:
    session.until("> ")
    session.type(f"{LEGAL}\n")
    session.until("-> legal")
    session.until("Loading legal ...")
    session.until(" tokens, ")
    (first,) = session.models()
    session.until("> ")
    session.type("/new\n")
    session.until("> ")
    session.type(f"{CODE}\n")
    session.until("Loading code ...")
    session.until(" tokens, ")
    (second,) = session.models()
    assert first.pid != second.pid
    assert not first.is_running()
    session.until("> ")
    session.type("exit\n")
    assert session.close() == 0
    assert not second.is_running()


def test_ctrl_c_stops_an_answer_and_ctrl_d_quits(experiment: Path) -> None:
    session = TerminalSession(experiment, "--set", "decoding.max_new_tokens=100", "--model", "base")
    session.until("> ")
    session.type("the law is\n")
    session.until("Loading base ...")
    session.type("\x03")
    session.until("(stopped)")
    session.until("> ")
    session.type("\x04")
    assert session.close() == 0


def test_ctrl_c_at_the_prompt_and_sigterm_quit_and_leave_no_process(session: TerminalSession, experiment: Path) -> None:
    session.until("> ")
    while session.process.poll() is None:  # one that comes just before readline waits is seen with the next
        session.type("\x03")
        time.sleep(5)
    assert session.close() == 130
    other = TerminalSession(experiment, "--model", "base")
    other.until("> ")
    other.type("the law is\n")
    other.until(" tokens, ")
    (model,) = other.models()
    other.until("> ")
    while other.process.poll() is None:
        other.process.send_signal(signal.SIGTERM)
        time.sleep(5)
    assert other.close() == 130
    assert not model.is_running()


def test_a_pipe_gets_the_text_that_evaluate_would_get(experiment: Path) -> None:
    """Greedy text of the same prompt, from the engine itself."""
    from moe_ray.config.load import load_experiment
    from moe_ray.engines.base import BatchLimits, GenerateRequest
    from moe_ray.engines.registry import make_engine
    from moe_ray.prompts.messages import Message, Prompt

    done = subprocess.run(
        [sys.executable, "-c", RUN, "chat", str(experiment)],
        input=LEGAL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.returncode, done.stderr) == (0, "")
    engine = make_engine(
        load_experiment(experiment).config.models["legal"], BatchLimits(max_rows=8, cache_memory_bytes=1 << 30)
    )
    prompt = Prompt(messages=(Message(role="user", content=LEGAL),))
    (answer,) = engine.generate(
        [GenerateRequest(id="a", prompt=prompt, max_new_tokens=12, temperature=0.0, top_p=1.0, seed=0)]
    )
    engine.close()
    assert done.stdout == f"{printable(answer.text)}\n"
