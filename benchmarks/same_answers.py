"""Same answers everywhere: one slot, two slots, and a run that moves half-way from the one to the other.

    python -m benchmarks.same_answers

Runs one experiment of tiny real transformers models three times and compares the content columns byte by byte. Prints
a table; exits with 1 when anything differs.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tiny_experiment import (
    NAME,
    difference,
    evaluate_command,
    private_environment,
    write_tiny_experiment,
)
from moe_ray.store.run_directory import RunDirectory

EXIT_INTERRUPTED = 130
POLL_S = 0.1


def run(
    experiment: Path, results: Path, slots: int, environment: dict[str, str], *, stop_at: int | None = None
) -> float:
    """Run or resume on `slots` slots; with `stop_at`, interrupt it (Ctrl-C) when so many answers are there.

    Returns the seconds it took. Raises `SystemExit`, with what it printed, when it ended otherwise than it should.
    """
    started = time.monotonic()
    command = evaluate_command(experiment, results, cpu_slots=slots)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        while stop_at is not None and process.poll() is None:
            if len(RunDirectory(results / NAME).done_keys()) >= stop_at:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(POLL_S)
        if process.wait() != (0 if stop_at is None else EXIT_INTERRUPTED):
            output.seek(0)
            raise SystemExit(f"ended with {process.returncode}:\n{output.read().decode()}")
    return time.monotonic() - started


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="same-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        environment = private_environment(folder / "home")
        experiment = write_tiny_experiment(folder / "experiment", num_examples=24, max_new_tokens=24)
        wall_s = {"one slot": run(experiment, folder / "one slot", 1, environment)}
        wall_s["two slots"] = run(experiment, folder / "two slots", 2, environment)
        first = RunDirectory(folder / "one slot" / NAME)
        half = first.answers_table(["key"]).num_rows // 2
        moved = folder / "one, then two"
        wall_s["one, then two"] = run(experiment, moved, 1, environment, stop_at=half)
        num_before = len(RunDirectory(moved / NAME).done_keys())
        wall_s["one, then two"] += run(experiment, moved, 2, environment)
        print(f"moved to two slots when {num_before} cells were there\n")
        print("run             cells  replicas  wall s  lost  twice  other  bytes")
        all_same = True
        for title, seconds in wall_s.items():
            record = RunDirectory(folder / title / NAME)
            found = difference(first, record)
            all_same &= found.is_none
            print(
                f"{title:14}  {found.num_cells:5}  {len(record.telemetry()):8}  {seconds:6.1f}  {found.num_lost:4}"
                f"  {found.num_twice:5}  {found.num_other:5}  {'same' if found.same_bytes else 'DIFFER'}"
            )
    print("\nIdentical content columns." if all_same else "\nThe answers depend on where they were computed.")
    return 0 if all_same else 1


if __name__ == "__main__":
    sys.exit(main())
