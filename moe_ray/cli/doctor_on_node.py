"""What `moe-ray doctor --nodes` starts on each node of a SLURM job: `python -m moe_ray.cli.doctor_on_node REQUEST`."""

import sys

from moe_ray.cli.terminal import output_console
from moe_ray.clusters.doctor.request import MARK, DoctorRequest, examine_here


def main(text: str) -> None:
    """Print the report of this node as one line."""
    report = examine_here(DoctorRequest.model_validate_json(text))
    output_console(soft_wrap=True).print(f"{MARK}{report.model_dump_json()}")


if __name__ == "__main__":
    main(sys.argv[1])
