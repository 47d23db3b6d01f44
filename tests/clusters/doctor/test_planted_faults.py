"""Every fault that is planted is found by its id, and no other check names anything."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from moe_ray.clusters.doctor.checks import all_checks
from moe_ray.clusters.doctor.examine import examine
from moe_ray.clusters.doctor.machine import Machine
from tests.clusters.doctor import job_plants, machine_plants
from tests.clusters.doctor.machines import gpu, in_slurm, with_experiment

PLANTS = {**machine_plants.PLANTS, **job_plants.PLANTS}
# Found on real file systems by test_real_faults.
REAL = {"temp-space", "temp-noexec", "results-space"}


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: machine,
        with_experiment,
        in_slurm,
        lambda machine: with_experiment(in_slurm(machine, SLURM_GPUS_ON_NODE=2, CUDA_VISIBLE_DEVICES="0,1")),
        lambda machine: replace(machine, read_gpus=lambda: (gpu(0), gpu(1))),
    ],
    ids=["plain", "experiment", "slurm", "slurm, GPUs, experiment", "GPUs"],
)
def test_a_clean_machine_has_no_finding(machine: Machine, change: Callable[[Machine], Machine]) -> None:
    report = examine(change(machine))
    assert report.findings == ()
    assert report.num_checks == len(all_checks())


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found_by_its_id_alone(machine: Machine, tmp_path: Path, name: str) -> None:
    with ExitStack() as stack:
        report = examine(PLANTS[name](machine, tmp_path, stack))
    assert {finding.check for finding in report.findings} == {name.partition(" ")[0]}, report.findings
    assert all(finding.evidence and finding.command for finding in report.findings)


def test_every_check_has_a_fault_that_it_finds() -> None:
    compared = {each.id for each in all_checks() if each.probe is None}
    planted = {name.partition(" ")[0] for name in PLANTS}
    assert planted | REAL == {each.id for each in all_checks()} - compared
