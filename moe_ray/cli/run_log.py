"""What a run tells, kept in its log.txt beside being shown."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import moe_ray
from moe_ray.config.schema import ExperimentConfig
from moe_ray.engines.endpoint.secrets import secrets_of
from moe_ray.errors import RunFailedError, UserError
from moe_ray.execution.observer import RunObserver
from moe_ray.store.log import RunLog

# Variables that hold keys whatever the experiment says.
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY")


def open_log(config: ExperimentConfig) -> RunLog:
    """Return the log of the experiment's run directory; keys that the experiment or the hub uses never enter it."""
    secrets = {os.environ[name] for name in SECRET_VARIABLES if name in os.environ}
    for model in config.models.values():
        secrets |= set(secrets_of(model).values())
    return RunLog(config.output.results_dir / config.name, secrets=secrets)


class LoggedObserver:
    """Shows events with another observer, and writes those that matter later to the log."""

    def __init__(self, shown: RunObserver, log: RunLog) -> None:
        self._shown = shown
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)

    def stage(self, text: str) -> None:
        self._log.write(text)
        self._shown.stage(text)

    def notice(self, text: str) -> None:
        self._log.write(text)
        self._shown.notice(text)

    def training(self, step: int, num_steps: int, detail: str) -> None:
        self._shown.training(step, num_steps, detail)

    def work(self, totals: Mapping[str, tuple[int, int]]) -> None:
        for model, (done, total) in totals.items():
            self._log.write(f"{model}: {done} of {total} answers are there")
        self._shown.work(totals)

    def replica(self, replica: str, model: str, state: str, detail: str) -> None:
        self._log.write(f"{replica}: {state}" + (f" ({detail})" if detail else ""))
        self._shown.replica(replica, model, state, detail)

    def committed(self, model: str, num_cells: int, num_tokens: int) -> None:
        self._shown.committed(model, num_cells, num_tokens)

    def abandoned(self, model: str, num_cells: int, reason: str) -> None:
        self._log.write(f"{model}: {num_cells} answers given up: {reason}")
        self._shown.abandoned(model, num_cells, reason)


@contextmanager
def session_log(log: RunLog) -> Iterator[None]:
    """Write how a session begins, what is warned of meanwhile, and how it ends."""
    log.write(f"session of moe-ray {moe_ray.__version__} begins, process {os.getpid()}")
    try:
        with _warnings_too(log):
            yield
    except KeyboardInterrupt:
        log.write("session interrupted")
        raise
    except (UserError, RunFailedError) as error:
        log.write(f"session ends: {error}")
        raise
    except BaseException as error:
        log.write(f"session ends with {type(error).__name__}: {error}")
        raise
    log.write("session ends")


@contextmanager
def _warnings_too(log: RunLog) -> Iterator[None]:
    handler = _LogHandler(log)
    show = warnings.showwarning

    def show_and_log(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        log.write(f"warning: {category.__name__}: {message}")
        show(message, category, *place, **more)

    logging.getLogger().addHandler(handler)
    warnings.showwarning = show_and_log
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        warnings.showwarning = show


class _LogHandler(logging.Handler):
    def __init__(self, log: RunLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(f"{record.levelname.lower()}: {record.name}: {record.getMessage()}")
