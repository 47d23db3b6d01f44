"""The picture of the chat page in the README: the router's expert beside the baseline, as a browser draws them.

    python -m benchmarks.chat_picture [--out docs/images]

The server is the fake of the tests: models, answers and timings are made up.
"""

import argparse
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.chromium import opened_browser
from tests.support.fake_api import Reply, Step, end, served_api, text, verdict

WIDTH_PX, HEIGHT_PX = 1280, 870
QUESTION = "How does metformin lower blood glucose, and how does it differ from sulfonylureas?"
EXPERT = """Metformin lowers blood glucose mainly by **reducing hepatic gluconeogenesis**.

1. It inhibits complex I of the respiratory chain, which raises the AMP/ATP ratio.
2. The change activates *AMPK*, which suppresses `PCK1` and `G6PC`.

| Property | Metformin | Sulfonylureas |
|:--|:--|:--|
| Insulin secretion | unchanged | increased |
| Risk of hypoglycaemia | low | moderate |
| Weight | neutral | gain |
"""
BASELINE = """Metformin is a medicine for type 2 diabetes. It helps the body respond to insulin and makes the liver \
release less sugar.

- It is usually taken with meals.
- Sulfonylureas make the pancreas release more insulin, so they can cause low blood sugar.
"""


class Pause(threading.Event):
    """An event that happens by itself, after a while."""

    def __init__(self, duration_s: float) -> None:
        super().__init__()
        self._duration_s = duration_s

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(min(self._duration_s, timeout or self._duration_s))
        return True


def stream(answer: str, about: dict[str, Any], *, first_s: float, piece_s: float) -> Iterator[Step]:
    yield Pause(first_s)
    for at, word in enumerate(answer.split(" ")):
        yield text(word if at == 0 else f" {word}", **({"moe_ray": about} if at == 0 else {}))
        yield Pause(piece_s)
    yield from end(num_prompt=31, num_completion=2 * len(answer.split(" ")))


def reply(body: dict[str, Any]) -> Reply:
    if body["model"] == "general-7b":
        about = verdict("general-7b", requested="general-7b", queue_ms=3.0)
        return Reply(list(stream(BASELINE, about, first_s=0.31, piece_s=0.05)))
    shares = {"biomedical": 0.943, "legal": 0.041, "code": 0.016}
    about = verdict(probabilities=shares, confidence=0.943, router_ms=4.1, queue_ms=12.0)
    return Reply(list(stream(EXPERT, about, first_s=0.18, piece_s=0.03)))


def take(out: Path) -> None:
    """Write chat.png."""
    out.mkdir(parents=True, exist_ok=True)
    with served_api() as api, opened_browser() as tab:
        api.reply = reply
        tab.look_as(WIDTH_PX, HEIGHT_PX)
        tab.open(api.url, until="document.querySelectorAll('#experts li').length > 0")
        tab.evaluate("document.getElementById('compare').click(); document.getElementById('question').focus()")
        tab.type(QUESTION)
        tab.press("Enter")
        tab.wait_for("document.querySelectorAll('.answer.over').length === 2")
        picture = Image.open(io.BytesIO(tab.picture()))
        picture.convert("RGB").save(out / "chat.png", optimize=True)
        size = (out / "chat.png").stat().st_size / 1024
        print(f"{out / 'chat.png'}: {picture.width} x {picture.height}, {size:.0f} KiB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the picture of the chat page.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    take(parser.parse_args().out)


if __name__ == "__main__":
    main()
