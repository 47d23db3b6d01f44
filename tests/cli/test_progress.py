"""The progress display, where no terminal is: a line for each event that a person should know."""

import io

from moe_ray.cli.progress import ProgressDisplay
from moe_ray.cli.terminal import Terminal


def lines_of(*events: tuple[str, str]) -> list[str]:
    out = io.StringIO()
    with ProgressDisplay(Terminal(file=out, width=200)) as display:
        for state, detail in events:
            display.replica("m-1", "m", state, detail)
        display.notice("the router's training lost its worker; it is started again, attempt 2 of 3 (out of memory)")
    return out.getvalue().splitlines()


def test_losses_and_retries_are_told_in_whole_sentences() -> None:
    assert lines_of(("ready", "loaded in 1.0 s"), ("lost", "out of memory"), ("failed", "no such weights")) == [
        "m-1: ready (loaded in 1.0 s)",
        "m-1: lost its process; its unfinished answers are computed again (out of memory)",
        "m-1: could not load its model (no such weights)",
        "the router's training lost its worker; it is started again, attempt 2 of 3 (out of memory)",
    ]
