"""What the doctor found, as records: of one node, and of all of them with equal nodes grouped."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field

from moe_ray.clusters.doctor.checks import Severity
from moe_ray.files import StoredRecord


class DoctorFinding(StoredRecord):
    """A problem that a check found."""

    check: str
    severity: Severity
    what: str
    evidence: str
    command: str


class NodeReport(StoredRecord):
    """What one node has to say. `clock_s` is its Unix time when it began, `slow_s` the checks that took over a second.

    `hung` are the checks that did not end in time; each has a finding too.
    """

    node: str
    clock_s: float
    elapsed_s: float
    num_checks: int
    findings: tuple[DoctorFinding, ...]
    hung: tuple[str, ...] = ()
    slow_s: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def fails(self) -> bool:
        return any(finding.severity == "failure" for finding in self.findings)


class NodeGroup(StoredRecord):
    """Nodes with the same findings; the evidence is that of the first one."""

    nodes: tuple[str, ...]
    findings: tuple[DoctorFinding, ...]


class DoctorReport(StoredRecord):
    """The report of all nodes. `failing_nodes` are those to exclude."""

    version: Literal[1] = 1
    elapsed_s: float
    num_checks: int
    groups: tuple[NodeGroup, ...]
    failing_nodes: tuple[str, ...]
    hung: tuple[str, ...] = ()
    slow_s: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, reports: Sequence[NodeReport], elapsed_s: float) -> Self:
        """Group the nodes whose findings are equal but for their evidence: the largest group first."""
        groups: dict[tuple[tuple[str, ...], ...], list[NodeReport]] = {}
        for report in reports:
            key = tuple((one.check, one.severity, one.what, one.command) for one in report.findings)
            groups.setdefault(key, []).append(report)
        slowest = dict[str, float]()
        for report in reports:
            for name, seconds in report.slow_s.items():
                slowest[name] = max(seconds, slowest.get(name, 0.0))
        return cls(
            elapsed_s=elapsed_s,
            num_checks=max((report.num_checks for report in reports), default=0),
            groups=tuple(
                NodeGroup(nodes=tuple(one.node for one in members), findings=members[0].findings)
                for members in sorted(groups.values(), key=len, reverse=True)
            ),
            failing_nodes=tuple(report.node for report in reports if report.fails),
            hung=tuple(dict.fromkeys(name for report in reports for name in report.hung)),
            slow_s=slowest,
        )

    @property
    def findings(self) -> tuple[DoctorFinding, ...]:
        return tuple(finding for group in self.groups for finding in group.findings)

    def exit_code(self, *, strict: bool = False) -> int:
        """0 where all is well or has warnings only, 1 for failures; with `strict` also for warnings."""
        return int(any(strict or finding.severity == "failure" for finding in self.findings))
