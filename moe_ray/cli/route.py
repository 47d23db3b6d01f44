"""`moe-ray route`: ask a trained router where texts go."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten

from moe_ray.cli.terminal import output_console
from moe_ray.config.schema import OTHER
from moe_ray.errors import UserError
from moe_ray.printable import one_line
from moe_ray.report.format import number, seconds
from moe_ray.routing.files import find_router
from moe_ray.routing.router import BLANK_SCORE, Route, Router, readable

STDIN = "-"
FOREIGN = "none of these, the baseline answers"
SHOWN_CHARACTERS = 72


def route_texts(texts: Sequence[str], path: Path, *, as_json: bool) -> None:
    """Print where the router of `path` (its directory, or a run's) sends each text; `-` stands for lines of stdin.

    With `as_json`, one object a line. Raises `UserError` for no text, and for no router.
    """
    wanted = [text for given in texts for text in (_lines_of_stdin() if given == STDIN else [given])]
    if not wanted:
        raise UserError(
            "no text to route", where="TEXT", remedy="give texts as arguments, or - and one a line on stdin"
        )
    router = Router.load(find_router(path))
    routes = router.route(wanted)
    lines = _json_lines(wanted, routes) if as_json else _plain_lines(wanted, routes, router)
    console = output_console(soft_wrap=True)
    for line in lines:
        console.print(one_line(line))


def _lines_of_stdin() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin]


def _json_lines(texts: Sequence[str], routes: Sequence[Route]) -> Iterator[str]:
    for text, route in zip(texts, routes, strict=True):
        yield json.dumps({"text": text, **asdict(route)})


def _plain_lines(texts: Sequence[str], routes: Sequence[Route], router: Router) -> Iterator[str]:
    for text, route in zip(texts, routes, strict=True):
        ranked = sorted(route.probabilities.items(), key=lambda item: -item[1])
        if OTHER in router.labels:
            ranked.append((OTHER, max(0.0, 1 - sum(route.probabilities.values()))))
        shares = ", ".join(f"{name} {number(value)}" for name, value in ranked)
        score = "nothing to read" if route.score == BLANK_SCORE else f"score {number(route.score)}"
        yield f"{FOREIGN if route.is_foreign else route.domain}: {_shown(text)}"
        yield f"  {shares}; {score}, threshold {number(router.threshold)}; {seconds(route.seconds)}"


def _shown(text: str) -> str:
    """The text's beginning on one line, without what would steer a terminal."""
    return shorten(readable(text), SHOWN_CHARACTERS, placeholder=" ...") or "(a blank text)"
