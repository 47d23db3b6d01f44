"""The progress display of a run: one bar for each model, with answers, tokens a second and the time left."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from moe_ray.cli.terminal import LineColumn, Terminal
from moe_ray.printable import indented

ROUTER = "router"
EVENTS = {
    "lost": "lost its process; its unfinished answers are computed again",
    "failed": "could not load its model",
}


class ProgressDisplay:
    """Draws bars on a terminal; elsewhere (a job's log) prints a line for each event and each tenth of the work."""

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._live = console.is_terminal
        self._progress = Progress(
            LineColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            LineColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            LineColumn("{task.fields[state]}"),
            console=console,
            disable=not self._live,
        )
        self._bars: dict[str, TaskID] = {}
        self._done: dict[str, tuple[int, int]] = {}
        self._tokens: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, text: str) -> None:
        self._say(text)

    def notice(self, text: str) -> None:
        self._say(text)

    def training(self, step: int, num_steps: int, detail: str, name: str = ROUTER) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=num_steps, rate="", state="")
        self._progress.update(self._bars[name], completed=step, total=num_steps, rate=detail)
        before, self._done[name] = self._done.get(name, (0, 0))[0], (step, num_steps)
        if not self._live and (10 * before // num_steps) != (10 * step // num_steps):
            self._say(f"{name}: step {step} of at most {num_steps}, {detail}")

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        width = max(map(len, totals), default=0)
        for model, (done, total) in totals.items():
            self._done[model] = (done, total)
            self._bars[model] = self._progress.add_task(
                model.ljust(width), completed=done, total=total, rate="", state=""
            )
            if done:
                self._say(f"{model}: {done} of {total} answers are there already")

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        if model in self._bars:
            self._progress.update(self._bars[model], state=state)
        if not self._live or state in ("lost", "failed") or detail.endswith("errors"):
            self._say(f"{replica}: {EVENTS.get(state, state)}" + (f" ({detail})" if detail else ""))

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        done, total = self._done[model]
        self._done[model] = (done + num_cells, total)
        self._tokens[model] = self._tokens.get(model, 0) + num_tokens
        elapsed_s = time.monotonic() - self._since.setdefault(model, time.monotonic())
        rate = f"{self._tokens[model] / elapsed_s:,.0f} tokens/s" if elapsed_s > 0 else ""
        self._progress.update(self._bars[model], completed=done + num_cells, rate=rate)
        if not self._live and (10 * done // total) != (10 * (done + num_cells) // total):
            self._say(f"{model}: {done + num_cells} of {total} answers{', ' + rate if rate else ''}")

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self._say(f"{model}: {num_cells} answers given up: {reason}")

    def _say(self, text: str) -> None:
        self._console.print(indented(text), soft_wrap=True)
