"""What opening, resuming, scoring, reporting and comparing cost when a store is large.

    python -m benchmarks.scale_store [--answers 20000 200000 2000000] [--folder DIR]

For each size writes a run directory (`tests.support.synthetic_store`), then measures each step in a process of its own:
wall time, processor time and the largest resident memory. "loose" is before the files of the shards are merged. Files
were written just before, so they come from the page cache. The last column is the growth: processor time per answer
against the size before; 1.0 grows as the work does. Exits with 1 when a step loses or doubles an answer.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.machine import machine_line, peak_memory_bytes
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.work import prepare
from moe_ray.store.run_directory import RunDirectory
from tests.support import synthetic_store

SIZES = (20_000, 200_000, 2_000_000)
STEP_TIMEOUT_S = 3600
SECOND = "second"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one step cost its process. `num` is the number of answers that the step saw."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    num: int


Step = Callable[[Path, int], int]


def write(folder: Path, num_answers: int) -> int:
    """Make the run directory, shard by shard."""
    synthetic_store.write_experiment(folder, num_answers)
    # A writer waits for the disk about as long as it computes.
    run = synthetic_store.fill_store(synthetic_store.load(folder), 2 * len(os.sched_getaffinity(0)))
    return len(run.done_keys())


def open_store(folder: Path, _: int) -> int:
    """Read the manifest and the keys of what is done."""
    run = _run(folder)
    run.manifest()
    return len(run.done_keys())


def resume(folder: Path, _: int) -> int:
    """Decide what is left to do, as `moe-ray plan` and `moe-ray evaluate` begin."""
    work = prepare(synthetic_store.load(folder)).work
    assert not work.shards
    return sum(counts.done for counts in work.counts().values())


def merge(folder: Path, _: int) -> int:
    """Merge the files of the shards, as the end of a session does."""
    run = _run(folder)
    run.merge_answers()
    return len(run.done_keys())


def score(folder: Path, _: int) -> int:
    """Grade all answers."""
    pipeline.score(_run(folder))
    return len(_run(folder).done_keys())


def report(folder: Path, _: int) -> int:
    """Write summary.json and report.html."""
    return pipeline.report(_run(folder)).run.num_cells_done


def compare(folder: Path, _: int) -> int:
    """Compare with a run whose models bear each other's scores."""
    second = folder / SECOND
    if not second.is_dir():
        _write_second(_run(folder).path, second)
    found = pipeline.compare(_run(folder), RunDirectory(second))
    assert any(pair.change is not None and pair.change.difference for pair in found.pairs)
    return _run(folder).manifest().sessions[-1].cells_done_after or 0


STEPS: Mapping[str, Step] = {
    "write": write,
    "open loose": open_store,
    "resume loose": resume,
    "merge": merge,
    "open": open_store,
    "resume": resume,
    "score": score,
    "report": report,
    "compare": compare,
}


def _run(folder: Path) -> RunDirectory:
    return RunDirectory(folder / "results" / synthetic_store.NAME)


def _write_second(first: Path, second: Path) -> None:
    """The same run, but that each model has the scores of the one before it."""
    second.mkdir()
    for name in ("config.yaml", "manifest.json", "answers", "examples", "telemetry"):
        (second / name).symlink_to(first / name)
    table = pq.read_table(first / "scores" / "scores.parquet", read_dictionary=["model"]).unify_dictionaries()
    chunks = table["model"].chunks
    names = chunks[0].dictionary.to_pylist()
    rotated = pa.array(names[1:] + names[:1])
    moved = pa.chunked_array([pc.take(rotated, chunk.indices) for chunk in chunks])
    table = table.set_column(
        table.schema.get_field_index("model"), pa.field("model", pa.string(), nullable=False), moved
    )
    (second / "scores").mkdir()
    pq.write_table(table, second / "scores" / "scores.parquet")


def cost_of(step: Step, folder: Path, num_answers: int) -> Cost:
    """Run `step` here, in a process that does nothing else."""
    started, started_cpu = time.perf_counter(), _cpu_s()
    num = step(folder, num_answers)
    wall_s, cpu_s = time.perf_counter() - started, _cpu_s() - started_cpu
    return Cost(wall_s=wall_s, cpu_s=cpu_s, peak_bytes=peak_memory_bytes(), num=num)


def _cpu_s() -> float:
    return sum(os.times()[:4])


def measured(step: str, folder: Path, num_answers: int) -> Cost:
    """Run `step` in a fresh process."""
    program = [sys.executable, "-m", "benchmarks.scale_store", "--step", step, "--answers", str(num_answers)]
    done = subprocess.run(
        [*program, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, timeout=STEP_TIMEOUT_S
    )
    return Cost(**json.loads(done.stdout))


def measure_size(folder: Path, num_answers: int, before: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """Write and measure one size, and print its rows.

    Returns the processor seconds per answer by step, and whether every step saw every answer.
    """
    num_expected = synthetic_store.num_examples_for(num_answers) * synthetic_store.ANSWERS_PER_EXAMPLE * 2
    per_answer: dict[str, float] = {}
    whole = True
    for step in STEPS:
        num_files = sum(1 for _ in (_run(folder).path / "answers").glob("*.parquet"))
        cost = measured(step, folder, num_answers)
        whole &= cost.num == num_expected
        per_answer[step] = cost.cpu_s / num_expected
        growth = f"{per_answer[step] / before[step]:6.2f}" if step in before else "     -"
        print(
            f"{num_expected:9,}  {step:13}  {num_files:6,}  {cost.wall_s:8.2f}  {cost.cpu_s:8.2f}"
            f"  {cost.peak_bytes / (1 << 20):8.0f}  {1e6 * per_answer[step]:9.1f}  {growth}",
            flush=True,
        )
    return per_answer, whole


def measure_all(folder: Path, sizes: list[int]) -> bool:
    """Measure every size; True when no step lost or doubled an answer."""
    print(machine_line("pyarrow", "numpy"))
    print("\n  answers  step            files    wall s     CPU s  peak MiB  us/answer  growth")
    before: dict[str, float] = {}
    all_whole = True
    for num_answers in sizes:
        before, whole = measure_size(folder / str(num_answers), num_answers, before)
        all_whole &= whole
    return all_whole


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a large store.")
    parser.add_argument("--answers", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--folder", type=Path, help="where the run directories go; default: a temporary folder")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(asdict(cost_of(STEPS[arguments.step], arguments.folder, arguments.answers[0]))))
        return 0
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="scale-"))
    try:
        whole = measure_all(folder, arguments.answers)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    print("\nEvery step saw every answer once." if whole else "\nAnswers were lost or doubled.")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
