"""Input and output of the sandbox, and its protections."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

ProgramOutcome = Literal["passed", "failed", "error", "timeout", "memory", "output_limit", "sandbox_failed"]
BackendName = Literal["bubblewrap", "namespaces", "filters", "limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A generated program and its tests.

    `code` is untrusted. `tests` are statements, each of which must run to its end; `setup` runs before them, with the
    names that the program defines at hand, and its import statements run before the program too. `timeout_s` is of
    CPU time on a busy machine, else of wall time (see `guest.clock`); None: the configured one.
    """

    code: str
    tests: tuple[str, ...]
    setup: str = ""
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not self.tests:
            raise ValueError("a program without tests cannot be judged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramVerdict:
    """How a program did.

    `failed`: an assert did not hold; `error`: the program or a test raised, or the program ended early;
    `sandbox_failed`: the sandbox itself broke, so that nothing is known about the program. `detail` is one line;
    `wall_s` is from the start of the program's process to the verdict. `idle` says of a timeout that the program took
    little CPU time: it slept, or the machine had no time for it.
    """

    outcome: ProgramOutcome
    detail: str
    wall_s: float
    idle: bool = False

    @property
    def passed(self) -> bool:
        """Every test ran to its end."""
        return self.outcome == "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protections:
    """What held when it was tried on this machine. `filesystem_reads` and `environment` are other people's files and
    variables; `processes` means that none can be started, none of others touched, and threads are bounded."""

    backend: BackendName
    network: bool
    filesystem_writes: bool
    filesystem_reads: bool
    processes: bool
    time: bool
    memory: bool
    output: bool
    environment: bool
    memory_gaps: tuple[str, ...] = ()
    """Kinds of memory that a program could hold beyond its limit."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the protections that did not hold."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is False)

    def explain_missing(self) -> str:
        """Return the missing protections in words, with the kinds of memory that no limit bounds."""
        gaps = f" ({', '.join(self.memory_gaps)})" if self.memory_gaps else ""
        return ", ".join(name + (gaps if name == "memory" else "") for name in self.missing)

    def describe(self) -> dict[str, Any]:
        """Return all of it for the manifest."""
        return {**asdict(self), "memory_gaps": list(self.memory_gaps), "missing": list(self.missing)}
