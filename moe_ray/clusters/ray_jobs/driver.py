"""The driver of a submitted job, on the cluster: `python -m moe_ray.clusters.ray_jobs.driver OPTIONS -- COMMAND`.

It runs `moe-ray COMMAND` as its child and returns the child's exit code. Where results go to an object store, it
downloads what an earlier attempt left there, mirrors the run directory while the run goes on, and once more at its end.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from moe_ray.clusters.job_commands import RUN_WORD, is_on_experiment
from moe_ray.clusters.ray_jobs.results import write_mark
from moe_ray.config.paths import cache_directory
from moe_ray.errors import RunDirectoryError, UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.store.mirror import Mirror, MirrorTakenError, is_url

EXIT_NOT_MIRRORED = 1
EXIT_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Run the command, and mirror its run directory if `--results` is an address; return the command's exit code."""
    options = _parse(arguments)
    place = f"{options.results}/{options.name}"
    results_dir = cache_directory() / "jobs" / fingerprint(place) if is_url(place) else Path(options.results)
    run = results_dir / options.name
    try:
        mirror = Mirror(place, writer=options.id) if is_url(place) else None
        if mirror is not None:
            copied = mirror.pull(run, on_progress=lambda _path: None)
            _say(f"Results are mirrored to {place}; {copied} files of earlier attempts were downloaded")
        write_mark(run, options.id)
    except (UserError, OSError) as error:
        _say(f"error: {error}")
        return EXIT_USAGE
    command = [sys.executable, "-m", "moe_ray", *_command(options.command, run)]
    return _supervise(_start(command), mirror, run, options.mirror_period_s)


def _command(words: Sequence[str], run: Path) -> list[str]:
    """Return the command with the run directory, and with its parent folder where it is on an experiment."""
    named = [str(run) + word[len(RUN_WORD) :] if word.partition("/")[0] == RUN_WORD else word for word in words]
    return [*named, "--results-dir", str(run.parent)] if is_on_experiment(words) else named


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="moe_ray.clusters.ray_jobs.driver", description=__doc__)
    parser.add_argument("--results", required=True, help="absolute folder, or address of fsspec, of run directories")
    parser.add_argument("--name", required=True, help="name of the run directory")
    parser.add_argument("--id", required=True, help="id of this job")
    parser.add_argument("--mirror-period-s", type=float, required=True, help="time between two copies to an address")
    parser.add_argument("command", nargs="+", help="arguments of moe-ray")
    return parser.parse_args(arguments)


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the command. A stop leaves this process, which still has results to save.

    Ray signals every process of a job that is stopped: a signal that was passed on would reach the command twice.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: None)
    return subprocess.Popen(command)


def _supervise(child: subprocess.Popen[bytes], mirror: Mirror | None, run: Path, period_s: float) -> int:
    while mirror is not None:
        try:
            child.wait(timeout=period_s)
            break
        except subprocess.TimeoutExpired:
            _push_meanwhile(mirror, run, child)
    code = child.wait()
    if mirror is not None:
        try:
            mirror.push(run)
        except RunDirectoryError as error:
            _say(f"error: {error}\nThe results are in {run} on {os.uname().nodename}")
            return code or EXIT_NOT_MIRRORED
    return code if code >= 0 else 128 - code


def _push_meanwhile(mirror: Mirror, run: Path, child: subprocess.Popen[bytes]) -> None:
    """Mirror what is there now. A store that fails is tried again later; one that another job took ends this run."""
    try:
        mirror.push(run)
    except MirrorTakenError as error:
        _say(f"error: {error}")
        child.terminate()
    except RunDirectoryError as error:
        _say(f"not mirrored now: {error.what}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
