"""Following a job to its end, whatever happens to the connection.

The log is polled: a stream of Ray's that is cut cannot be told from a job that ended, and its client then reports
success. The interval grows with the time that a transfer takes, because each transfer has the whole log.
"""

import time
from collections.abc import Callable, Iterator

from moe_ray.clusters.ray_jobs.client import JobInfo, JobMissingError, JobsClient, JobsUnreachableError
from moe_ray.errors import RunFailedError

POLL_S = 2.0
TRANSFER_SHARE = 0.1
LAST_READS = 3
PATIENCE_S = 600.0

Notify = Callable[[str], object]


class _JobLog:
    """The lines of a job's log that were not read yet."""

    def __init__(self, client: JobsClient, id: str, on_notice: Notify) -> None:
        self._client, self._id, self._on_notice = client, id, on_notice
        self._num_read = 0
        self._is_lost = False

    def new_lines(self) -> list[str]:
        """Return the whole lines that were added since the last call; none while the log cannot be read."""
        text = self._text()
        end = text.rfind("\n") + 1
        self._num_read += end
        return text[:end].splitlines()

    def last_lines(self, *, poll_s: float) -> list[str]:
        """Return what is left when the job has ended."""
        for _ in range(LAST_READS):
            text = self._text()
            if not self._is_lost:
                return text.splitlines()
            time.sleep(poll_s)
        self._on_notice("the end of the log is lost; the job's state is not")
        return []

    def _text(self) -> str:
        try:
            text = self._client.logs(self._id)[self._num_read :]
            self._is_lost = False
        except (JobsUnreachableError, JobMissingError) as error:
            if not self._is_lost:
                self._on_notice(f"the log cannot be read now: {error}")
            self._is_lost = True
            return ""
        return text


def follow(client: JobsClient, id: str, *, on_notice: Notify, poll_s: float = POLL_S) -> Iterator[str]:
    """Yield the lines of a job's log until the job ends. A connection that fails is tried again for `PATIENCE_S`.

    Raises `RunFailedError` when the cluster is silent for longer, or has forgotten the job.
    """
    log, silence, reason = _JobLog(client, id, on_notice), _Silence(on_notice), ""
    while True:
        start_s = time.monotonic()
        info = _info(client, id, silence)
        if info is not None and info.has_ended:
            yield from log.last_lines(poll_s=poll_s)
            return
        if info is not None:
            yield from log.new_lines()
            if info.state == "PENDING" and info.message != reason:
                reason = info.message
                on_notice(f"waiting: {reason}")
        time.sleep(max(poll_s, (time.monotonic() - start_s) / TRANSFER_SHARE))


def final_state(client: JobsClient, id: str, *, on_notice: Notify, poll_s: float = POLL_S) -> JobInfo:
    """Return the state of a job that is at its end, with the patience of `follow`."""
    silence = _Silence(on_notice)
    while True:
        info = _info(client, id, silence)
        if info is not None and info.has_ended:
            return info
        time.sleep(poll_s)


def _info(client: JobsClient, id: str, silence: "_Silence") -> JobInfo | None:
    """Return what the cluster says about the job; None where it does not answer."""
    try:
        info = client.info(id)
    except JobMissingError as error:
        raise _lost(f"{error}; it was started anew, or another cluster answers there") from error
    except JobsUnreachableError as error:
        silence.goes_on(error)
        return None
    silence.ended()
    return info


class _Silence:
    """How long the cluster has not answered."""

    def __init__(self, on_notice: Notify) -> None:
        self._on_notice = on_notice
        self._since_s: float | None = None

    def ended(self) -> None:
        self._since_s = None

    def goes_on(self, error: JobsUnreachableError) -> None:
        """Note a request that failed; raises `RunFailedError` when there was no other for too long."""
        now_s = time.monotonic()
        if self._since_s is None:
            self._since_s = now_s
            self._on_notice(f"{error}; the job goes on, trying again")
        elif now_s - self._since_s > PATIENCE_S:
            raise _lost(f"{error}, for {PATIENCE_S:g} s") from error


def _lost(what: str) -> RunFailedError:
    return RunFailedError(
        f"the job's end is not known: {what}\n  remedy: moe-ray status RUN asks again; the same "
        "moe-ray submit resumes the run"
    )
