"""Copy a run directory from a login node with rsync: resumable, small results first, verified by hash."""

import hashlib
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from moe_ray.clusters.slurm.hosts import Host, ssh_command
from moe_ray.errors import RunFailedError, UserError

# Reports, summaries and logs come first; answers and routers follow.
SMALL_BYTES = 1 << 20
PARTIAL = ".rsync-partial"
# Of this copy alone, or of the job's processes alone.
KEPT_APART = ("/submission.json", "/.lock", "/.lease*", "/slurm/*/token", ".*.tmp", PARTIAL)
HASH_TIMEOUT_S = 3600.0
_HASHES = 'cd "$1" && find . -type f -exec sha256sum {} +'


def fetch(host: Host, remote_run: str, run: Path, on_progress: Callable[[str], object]) -> None:
    """Copy `remote_run` of `host` to `run`. Nothing local is deleted; the same call continues after an interruption.

    Raises `UserError` where rsync cannot start or the host cannot be reached, `RunFailedError` where files differ at
    the end.
    """
    host.require_reachable()
    run.mkdir(parents=True, exist_ok=True)
    on_progress(f"Copying small files of {host.name}:{remote_run}")
    _rsync(host, remote_run, run, f"--max-size={SMALL_BYTES}")
    on_progress("Copying the other files")
    _rsync(host, remote_run, run)
    wanted = _remote_hashes(host, remote_run)
    wrong = _differing(run, wanted)
    if wrong:  # a run that is still at work changes files; one more look is enough where it is not
        on_progress(f"Copying {len(wrong)} files again that changed meanwhile")
        _rsync(host, remote_run, run, "--checksum")
        wanted = _remote_hashes(host, remote_run)
        wrong = _differing(run, wanted)
    if wrong:
        raise RunFailedError(
            f"{len(wrong)} files differ from {host.name}, such as {wrong[0]}\n"
            "  remedy: run the same command again, when the job has ended"
        )
    on_progress(f"{len(wanted)} files are there, and their hashes agree")


def _rsync(host: Host, remote_run: str, run: Path, *options: str) -> None:
    excluded = [f"--exclude={pattern}" for pattern in KEPT_APART]
    command = [
        "rsync", "--archive", "--compress", f"--partial-dir={PARTIAL}", "--delay-updates", "--protect-args",
        *excluded, *options, "-e", shlex.join(ssh_command()), f"{host.name}:{remote_run}/", f"{run}/",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError("rsync: command not found", where="this machine", remedy="install rsync") from error
    # 24: files vanished while they were copied, as those of a run at work do.
    if done.returncode not in (0, 24):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise UserError(
            f"rsync failed: {reason}",
            where=f"{host.name}:{remote_run}",
            remedy="check the path and that rsync is installed there; the same command continues",
        )


def _remote_hashes(host: Host, remote_run: str) -> dict[str, str]:
    answer = host.run(["sh", "-c", _HASHES, "sh", remote_run], timeout_s=HASH_TIMEOUT_S)
    if answer.code != 0:
        raise UserError(
            f"cannot hash files: {answer.err.strip()}", where=f"{host.name}:{remote_run}", remedy="try again"
        )
    lines = (line.partition("  ") for line in answer.out.splitlines())
    hashes = {name.removeprefix("./"): digest for digest, _, name in lines}
    return {name: digest for name, digest in hashes.items() if not _is_apart(name)}


def _is_apart(name: str) -> bool:
    parts = name.split("/")
    is_token = parts[0] == "slurm" and parts[-1] == "token"
    is_temporary = parts[-1].startswith(".") and parts[-1].endswith(".tmp")
    return is_token or is_temporary or name in ("submission.json", ".lock") or name.startswith(".lease")


def _differing(run: Path, hashes: dict[str, str]) -> list[str]:
    return [name for name, digest in sorted(hashes.items()) if not _has_hash(run / name, digest)]


def _has_hash(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False
