"""What a node is asked to check, as a line of JSON, and its answer."""

from pathlib import Path

from moe_ray.clusters.doctor.examine import examine
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.clusters.doctor.report import NodeReport
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.errors import ConfigError
from moe_ray.files import StoredRecord

# What a node prints before its report, so that the line is found among others.
MARK = "moe-ray doctor report: "


class DoctorRequest(StoredRecord):
    """The experiment to check, its overrides, and the time for a check.

    `meeting` is the folder where the nodes meet, `cluster` the head's address of the Ray cluster that they are in.
    """

    file: Path | None = None
    overrides: tuple[str, ...] = ()
    meeting: Path | None = None
    cluster: str | None = None
    limit_s: float


def examine_here(request: DoctorRequest, name: str | None = None) -> NodeReport:
    """Examine this machine, which is called `name` in the report."""
    experiment, wrong = loaded(request.file, request.overrides)
    machine = Machine.here(
        experiment,
        wrong_experiment=wrong,
        meeting=request.meeting,
        cluster=request.cluster,
        limit_s=request.limit_s,
    )
    report = examine(machine)
    return report if name is None else report.model_copy(update={"node": name})


def loaded(file: Path | None, overrides: tuple[str, ...]) -> tuple[LoadedExperiment | None, ConfigError | None]:
    """Load an experiment, or return why it cannot be used."""
    if file is None:
        return None, None
    try:
        return load_experiment(file, overrides), None
    except ConfigError as error:
        return None, error
