"""The noisy prompts that the best router is surest about and wrong, to be read by somebody."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.router_accuracy.agreement import surest_mistakes
from benchmarks.router_accuracy.records import Measurements
from benchmarks.router_accuracy.sources import read_prompts

NUM_CHARACTERS = 160


def mistakes(measured: Measurements, data: Path, num_shown: int) -> Iterator[str]:
    """Yield the title and `num_shown` lines. The prompts are read from `data`: the results file holds none of them."""
    runs = [run for run in measured.runs.values() if run.verdicts]
    if not runs or not num_shown:
        return
    best = max(runs, key=lambda run: run.results.macro_f1)
    texts = {text.id: text.text for group in read_prompts(data).values() for text in group}
    yield f"Noisy prompts, {best.router}, surest mistakes: label, what was said, probability, subreddit, prompt\n"
    for verdict in surest_mistakes(best.verdicts)[:num_shown]:
        shown = " ".join(texts[verdict.id].split())[:NUM_CHARACTERS]
        yield f"{verdict.label}  {verdict.predicted}  {verdict.confidence:.2f}  {verdict.source}: {shown}"
    yield ""
