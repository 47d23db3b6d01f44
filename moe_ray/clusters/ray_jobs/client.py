"""Client of Ray's Jobs API over HTTP, with a time limit on each request.

Ray's own client lets RAY_ADDRESS and RAY_API_SERVER_ADDRESS replace the address that it was given; this one reads no
environment variable but the token's, and that only when the cluster asks for a token.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import httpx2

from moe_ray.clusters.ray_jobs.access import FoundToken, JobsAddress, find_token
from moe_ray.errors import MoeRayError, UserError, first_line
from moe_ray.files import JsonError, parse_json

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 600.0
MAX_REASON_CHARACTERS = 600

JobState = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED"]
STATES = get_args(JobState)
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_EXIT_CODE = 130
UNKNOWN_EXIT_CODE = 1


class JobsUnreachableError(MoeRayError):
    """The Jobs API did not answer, or answered with an error of its own. The same request may succeed later."""


class JobMissingError(MoeRayError):
    """The cluster does not know the job. It forgets its jobs when it is restarted."""


class JobInfo(NamedTuple):
    """What the cluster says about a job. `driver_exit_code` is None before the end, and where Ray does not know it."""

    state: JobState
    message: str
    driver_exit_code: int | None
    metadata: dict[str, str]

    @property
    def has_ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def exit_code(self) -> int | None:
        """The driver's own exit code, 128 + N after signal N; 130 for a stopped job, 1 if the driver never ran."""
        if not self.has_ended:
            return None
        if self.state == "STOPPED":
            return STOPPED_EXIT_CODE
        if self.state == "SUCCEEDED":
            return 0
        code = self.driver_exit_code or UNKNOWN_EXIT_CODE
        return code if code > 0 else 128 - code


class JobsClient:
    """The Jobs API at an address. A context manager, which closes its connections.

    Requests raise `JobsUnreachableError` where the cluster does not answer, and `UserError` where it refuses the token
    or wants one that is not here.
    """

    def __init__(self, address: JobsAddress, *, token_file: Path | None = None) -> None:
        self.address = address
        self._token_file = token_file
        self._token: FoundToken | None = None
        self._http = httpx2.Client(
            base_url=address.url,
            timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ray_version(self) -> str:
        """Return the cluster's version of Ray. Raises `UserError` where something else than a dashboard answers."""
        answer = self._request("GET", "/api/version")
        version = _json(answer).get("ray_version") if answer.status_code == 200 else None
        if not isinstance(version, str):
            raise UserError(
                f"no Ray dashboard answers there (status {answer.status_code})",
                where=f"--address {self.address.url}",
                remedy="give the dashboard's address, port 8265 unless it was changed; not the port 6379 or 10001",
            )
        return version

    def upload(self, name: str, content: bytes) -> bool:
        """Store a package on the cluster; return False where it is there already."""
        path = f"/api/packages/gcs/{name}"
        if self._request("GET", path).status_code == 200:
            return False
        self._done(self._request("PUT", path, content=content, timeout=UPLOAD_TIMEOUT_S))
        return True

    def submit(
        self,
        *,
        id: str,
        entrypoint: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
        num_gpus: float = 0.0,
    ) -> None:
        """Start a job, whose driver gets `num_gpus` to itself, on any node; without, it runs on the head.

        Raises `JobsUnreachableError` also where the cluster refuses it; `info` says if it is there.
        """
        body: dict[str, Any] = {
            "submission_id": id,
            "entrypoint": entrypoint,
            "runtime_env": runtime_env,
            "metadata": metadata,
        }
        body |= {"entrypoint_num_gpus": num_gpus} if num_gpus else {}
        self._done(self._request("POST", "/api/jobs/", json=body))

    def info(self, id: str) -> JobInfo:
        """Return the state of a job. Raises `JobMissingError` where the cluster does not know it."""
        found = _json(self._done(self._request("GET", f"/api/jobs/{id}")))
        state: Any = found.get("status")
        code, metadata = found.get("driver_exit_code"), found.get("metadata")
        if state not in STATES:
            raise JobsUnreachableError(f"{self.address.url} answers with what is not the state of a job: {state!r}")
        return JobInfo(
            state=state,
            message=str(found.get("message") or ""),
            driver_exit_code=code if isinstance(code, int) else None,
            metadata=metadata if isinstance(metadata, dict) else {},
        )

    def logs(self, id: str) -> str:
        """Return the whole log of a job's driver."""
        text = _json(self._done(self._request("GET", f"/api/jobs/{id}/logs"))).get("logs")
        return text if isinstance(text, str) else ""

    def stop(self, id: str) -> None:
        """Ask the cluster to end a job: SIGTERM, and SIGKILL after its RAY_JOB_STOP_WAIT_TIME_S (3 s)."""
        self._done(self._request("POST", f"/api/jobs/{id}/stop"))

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = self._send(method, path, **options)
        if answer.status_code == 401 and self._token is None:
            self._token = find_token(self._token_file)
            answer = self._send(method, path, **options)
        if answer.status_code in (401, 403):
            source = self._token.source if self._token else "no token"
            raise UserError(
                f"the cluster refuses the token (status {answer.status_code})",
                where=f"{self.address.url}, {source}",
                remedy="use the token that the cluster was started with: copy its file again",
            )
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._token.value}"} if self._token else {}
        try:
            return self._http.request(method, path, headers=headers, **options)
        except httpx2.HTTPError as error:
            raise JobsUnreachableError(f"{self.address.url} does not answer: {first_line(error)}") from error

    def _done(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.status_code == 404:
            raise JobMissingError(f"{self.address.url} does not know it: {_reason(answer)}")
        if answer.status_code != 200:
            raise JobsUnreachableError(f"{self.address.url} answers {answer.status_code}: {_reason(answer)}")
        return answer


def _json(answer: httpx2.Response) -> dict[str, Any]:
    try:
        value = parse_json(answer.content)
    except JsonError as error:
        raise JobsUnreachableError(f"{answer.url.host} answers with what is not JSON: {error}") from error
    return value if isinstance(value, dict) else {}


def _reason(answer: httpx2.Response) -> str:
    """Return the last line of an answer: Ray sends tracebacks, which end with what was wrong."""
    lines = answer.text.strip().splitlines() or ["no reason"]
    return lines[-1][:MAX_REASON_CHARACTERS]
