"""Everything moe_ray raises on purpose.

MoeRayError
├── UserError              the user can fix it; the command line prints it plainly and exits with 2
│   ├── ConfigError        the experiment file, or an option that overrides it
│   ├── DataError          a data set: missing, malformed, empty
│   │   └── OfflineError   a data set that is on the hub, which cannot be reached
│   ├── ModelError         a checkpoint: missing, malformed, too large
│   ├── RunDirectoryError  a run directory: unwritable, half-written, of another experiment
│   ├── CapacityError      the work can never be placed on the hardware there is
│   └── SandboxError       generated code cannot be run safely here
├── EngineLostError        a loaded model cannot answer any more (a server ended, an endpoint is silent)
└── RunFailedError         the run ended without all that was asked; what was computed is kept; exits with 1
    ├── TaskLostError      a task lost its worker each time that it was tried
    └── RayUnresponsiveError   Ray's head or a raylet is stopped, lost or unreachable
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MoeRayError(Exception):
    """Base of all errors that moe_ray raises on purpose."""


class UserError(MoeRayError):
    """A mistake that the user can fix.

    Args:
        what: what was wrong, with the offending value, in one line.
        where: file, key and line, if known ("experiment.yaml:12, models.mediphi.dtype").
        remedy: what to do about it, in one line.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  remedy: {self.remedy}" if self.remedy else text

    @property
    def in_a_list(self) -> str:
        """The message as one of several: the remedy in parentheses, further lines indented."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.remedy})".replace("\n", "\n  ") if self.remedy else text.replace("\n", "\n  ")

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts when the error crosses a process border (exceptions pickle only their args)."""
        return _rebuild, (type(self), self.what, self.where, self.remedy)


class Problems:
    """Mistakes that are gathered, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._found: list[UserError] = []

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Keep a `UserError` of this block, and go on after it."""
        try:
            yield
        except UserError as error:
            self._found.append(error)

    def raise_if_any(self) -> None:
        """Raise what was gathered: the one error as it was, several as one that lists them."""
        if len(self._found) == 1:
            raise self._found[0]
        if self._found:
            listed = "".join(f"\n  {error.in_a_list}" for error in self._found)
            raise UserError(f"{len(self._found)} problems{listed}", remedy="fix them and run the same command again")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name when it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _rebuild(kind: type[UserError], what: str, where: str | None, remedy: str | None) -> UserError:
    return kind(what, where=where, remedy=remedy)


class ConfigError(UserError):
    """The experiment file, or an option that overrides it, is wrong."""


class DataError(UserError):
    """A data set is missing, malformed or empty."""


class OfflineError(DataError):
    """A data set is neither in the cache nor can the hub be reached."""


class ModelError(UserError):
    """A checkpoint is missing, malformed or does not fit."""


class RunDirectoryError(UserError):
    """A run directory cannot be used."""


class CapacityError(UserError):
    """The work can never be placed on the hardware there is."""


class SandboxError(UserError):
    """Generated code cannot be run safely on this machine."""


class EngineLostError(MoeRayError):
    """A loaded model cannot answer any more, whatever it is asked. Its replica ends, and its work is queued again."""


class RunFailedError(MoeRayError):
    """The run ended without all that was asked. What was computed is on disk."""


class TaskLostError(RunFailedError):
    """A task lost its worker or node each time that it was tried, or no node is left that could run it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}\n  remedy: fix the cause (memory that ran out, a node that is gone) and run the same command "
            "again; it continues from what is finished"
        )


class RayUnresponsiveError(RunFailedError):
    """Ray does not answer any more: its head or a raylet is stopped, lost or unreachable."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Ray does not answer any more: {reason}\n  remedy: check the cluster's head and nodes (stopped, out of "
            "memory, unreachable), then run the same command again; it continues from what is finished. On a cluster "
            "that is only slow, raise runtime.ray_timeout_s"
        )
