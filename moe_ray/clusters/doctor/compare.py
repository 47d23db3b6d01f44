"""Checks that compare the nodes' reports: equal versions, equal clocks, and that every node answered."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from moe_ray.clusters.doctor.checks import Severity, check_called, compares_nodes
from moe_ray.clusters.doctor.report import DoctorFinding, NodeReport

MAX_SKEW_S = 10.0
OF_THE_SYSTEM = ("glibc", "NVIDIA driver")

NODE_SILENT = compares_nodes(
    "node-silent",
    "failure",
    """A node did not answer.

    The node is down, cannot start a process of the job, or does not see the Python that runs moe-ray.
    """,
)
VERSIONS = compares_nodes(
    "versions",
    "failure",
    """Nodes have different versions of Python, of packages or of the system.

    Ray refuses nodes with another version of Python or Ray. Another torch or transformers can change answers. Another
    glibc or NVIDIA driver is a warning: compiled packages may not load.
    """,
)
CLOCK_SKEW = compares_nodes(
    "clock-skew",
    "failure",
    """The clock of a node is wrong.

    Compared with the machine that asks, within the time that the answer took. Authentication (munge, TLS) fails with a
    wrong clock, and times in logs and leases mislead.
    """,
)


class NodeAnswers(NamedTuple):
    """The reports of the nodes, the nodes that did not answer with the reason, and when they were asked (Unix time)."""

    reports: Sequence[NodeReport]
    silent: Sequence[str]
    reason: str
    asked_at_s: float
    answered_at_s: float


def compared(answered: NodeAnswers) -> list[NodeReport]:
    """Return the reports with what differs between the nodes; a silent node gets a report of its own."""
    usual = _usual_versions(answered.reports)
    found = [_with_findings(report, usual, answered) for report in answered.reports]
    found += [_silent(node, answered) for node in answered.silent]
    return sorted(found, key=lambda report: node_order(report.node))


def node_order(name: str) -> tuple[str, int]:
    """Return a key that sorts node2 before node10."""
    text = name.rstrip("0123456789")
    return text, int(name[len(text) :] or 0)


def _usual_versions(reports: Sequence[NodeReport]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    for report in reports:
        for name, version in report.versions.items():
            counts.setdefault(name, Counter())[version] += 1
    return {name: counter.most_common(1)[0][0] for name, counter in counts.items()}


def _with_findings(report: NodeReport, usual: dict[str, str], answered: NodeAnswers) -> NodeReport:
    more = [
        _finding(
            VERSIONS,
            f"{name} is {version} here, and {usual[name]} on other nodes",
            f"{name} {version}",
            f"ssh {report.node} command -v python",
            "warning" if name in OF_THE_SYSTEM else None,
        )
        for name, version in report.versions.items()
        if version != usual[name]
    ]
    skew_s = max(answered.asked_at_s - report.clock_s, report.clock_s - answered.answered_at_s)
    if skew_s > MAX_SKEW_S:
        more.append(_finding(CLOCK_SKEW, "the clock of this node is wrong", f"by {skew_s:.0f} s", "timedatectl status"))
    return report.model_copy(update={"findings": (*more, *report.findings)})


def _silent(node: str, answered: NodeAnswers) -> NodeReport:
    reason = answered.reason or "no output"
    return NodeReport(
        node=node,
        clock_s=answered.asked_at_s,
        elapsed_s=answered.answered_at_s - answered.asked_at_s,
        num_checks=0,
        findings=(_finding(NODE_SILENT, "this node did not answer", reason, "sinfo -N -l"),),
    )


def _finding(name: str, what: str, evidence: str, command: str, severity: Severity | None = None) -> DoctorFinding:
    return DoctorFinding(
        check=name, severity=severity or check_called(name).severity, what=what, evidence=evidence, command=command
    )
