"""All nodes at once: one step of a stand-in for srun, equal nodes in one group, and what differs between nodes."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from moe_ray.clusters.doctor.compare import NodeAnswers, compared
from moe_ray.clusters.doctor.nodes import examine_nodes
from moe_ray.clusters.doctor.report import DoctorFinding, DoctorReport, NodeReport
from moe_ray.clusters.doctor.request import DoctorRequest
from moe_ray.errors import UserError
from tests.execution.experiments import scripted, write_experiment

NODES = ("node1", "node2", "node10")
# Starts the command on every "node": options first, then the command. Variables of one node are in FAKE_NODE.
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > "$FAKE_LOG"
while [[ $1 == --* ]]; do shift; done
[[ -n $FAKE_SRUN_FAILS ]] && { echo "srun: error: $FAKE_SRUN_FAILS" >&2; exit 1; }
for node in node1 node2 node10; do
  if [[ $node == "$FAKE_SILENT" ]]; then echo "srun: error: $node: task 1: Exited with exit code 127" >&2; continue; fi
  if [[ $node == "$FAKE_BAD" ]]; then RAY_AUTH_TOKEN=0123456789 SLURMD_NODENAME=$node "$@" &
  else SLURMD_NODENAME=$node "$@" & fi
done
wait
"""
SCONTROL = """#!/bin/bash
case "$2" in
  hostnames) printf 'node1\\nnode2\\nnode10\\n';;
  config) printf 'JobRequeue = 1\\nKillWait = 30 sec\\nSLURM_VERSION = 22.05.8\\n';;
esac
"""


@pytest.fixture
def allocation(tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is in a SLURM job of three nodes, all of them on this machine. Returns a folder."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    short_folder.chmod(0o755)
    variables: Mapping[str, object] = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": short_folder,
        "RAY_TMPDIR": short_folder,
        "FAKE_LOG": tmp_path / "srun.log",
        "SLURM_JOB_ID": 17,
        "SLURM_JOB_NUM_NODES": 1,
        "SLURM_JOB_NODELIST": "node[1-2,10]",
        "SLURM_JOB_END_TIME": 4102444800,
    }
    for name in [*os.environ]:
        if name.startswith(("RAY_", "SLURM_", "CUDA_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def asked(folder: Path | None = None) -> DoctorReport:
    experiment = None if folder is None else write_experiment(folder / "experiment", {"base": scripted()})
    request = DoctorRequest(file=None if experiment is None else experiment.path, limit_s=5)
    return DoctorReport.of(examine_nodes(request, experiment), 1.0)


def test_three_equal_nodes_are_one_group(allocation: Path) -> None:
    report = asked(allocation)
    assert [(group.nodes, group.findings) for group in report.groups] == [(NODES, ())]
    assert report.failing_nodes == ()
    assert not list((allocation / "experiment").glob(".moe-ray-doctor*"))
    options = (allocation / "srun.log").read_text().splitlines()
    assert {"--overlap", "--no-kill", "--ntasks=3", "--ntasks-per-node=1"} <= set(options)


def test_a_node_that_differs_is_a_group_of_its_own(allocation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BAD", "node2")
    report = asked()
    shown = [(group.nodes, [one.check for one in group.findings]) for group in report.groups]
    assert shown == [(("node1", "node10"), []), (("node2",), ["token-value"])]
    assert (report.exit_code(), report.exit_code(strict=True)) == (0, 1)


def test_a_silent_node_fails_with_the_reason_of_srun(allocation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SILENT", "node2")
    report = asked()
    (finding,) = report.findings
    assert (finding.check, finding.severity) == ("node-silent", "failure")
    assert "node2: task 1: Exited with exit code 127" in finding.evidence
    assert report.failing_nodes == ("node2",)
    assert report.exit_code() == 1


def test_a_step_that_cannot_start_is_said_as_srun_says_it(allocation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SRUN_FAILS", "Unable to create step: Invalid partition")
    with pytest.raises(UserError, match="no node answered: srun: error: Unable to create step"):
        asked()


def test_without_a_job_or_a_cluster_there_are_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="there are no other nodes"):
        asked()


def report_of(node: str, *, clock_s: float = 100.0, **versions: str) -> NodeReport:
    return NodeReport(
        node=node,
        clock_s=clock_s,
        elapsed_s=0.1,
        num_checks=3,
        findings=(),
        versions={"python": "3.12.1", "ray": "2.60.0", **versions},
    )


def answered(*reports: NodeReport, silent: tuple[str, ...] = ()) -> NodeAnswers:
    return NodeAnswers(reports=reports, silent=silent, reason="", asked_at_s=99.0, answered_at_s=103.0)


def found(*reports: NodeReport) -> dict[str, list[str]]:
    return {one.node: [finding.check for finding in one.findings] for one in compared(answered(*reports))}


def test_equal_nodes_have_no_finding() -> None:
    assert found(report_of("a"), report_of("b"), report_of("c")) == {"a": [], "b": [], "c": []}


def test_the_node_with_another_version_is_named_and_not_the_others() -> None:
    reports = [report_of("a"), report_of("b", ray="2.50.0"), report_of("c")]
    assert found(*reports) == {"a": [], "b": ["versions"], "c": []}


def test_a_clock_is_compared_within_the_time_of_the_answer() -> None:
    reports = [
        report_of("a"),
        report_of("b", clock_s=700.0),
        report_of("c", clock_s=-501.0),
        report_of("d", clock_s=110),
    ]
    assert found(*reports) == {"a": [], "b": ["clock-skew"], "c": ["clock-skew"], "d": []}
    (finding,) = compared(answered(report_of("b", clock_s=703.0)))[0].findings
    assert finding.evidence == "by 600 s"


def test_nodes_are_in_the_order_of_their_numbers() -> None:
    reports = compared(answered(report_of("node10"), report_of("node9"), silent=("node2",)))
    assert [report.node for report in reports] == ["node2", "node9", "node10"]


def test_nodes_group_by_what_is_wrong_and_not_by_its_evidence() -> None:
    def with_evidence(node: str, evidence: str, severity: str = "failure") -> NodeReport:
        finding = DoctorFinding.model_validate(
            {"check": "data", "severity": severity, "what": "x", "evidence": evidence, "command": "y"}
        )
        return report_of(node).model_copy(update={"findings": (finding,)})

    report = DoctorReport.of(
        [with_evidence("a", "pid 1"), with_evidence("b", "pid 2"), with_evidence("c", "", "warning")], 0.5
    )
    assert [group.nodes for group in report.groups] == [("a", "b"), ("c",)]
    assert report.failing_nodes == ("a", "b")
    assert json.loads(report.model_dump_json())["version"] == 1
