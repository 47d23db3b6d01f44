"""What Ray's workers may import: what is installed and this package, nothing from the working directory."""

import os
import sysconfig
from pathlib import Path

from ray.job_config import JobConfig

import moe_ray

INJECTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def job_config() -> JobConfig | None:
    """Return the configuration of this driver's Ray job; None inside a submitted job, which has one.

    Ray puts the driver's working directory first on its workers' import path, where a file such as pandas.py would be
    imported in place of the library. It does so for all jobs but those of its client, so the job says that it is one.
    A checkout that is not installed is made importable by the folder that holds it.
    """
    if INJECTED in os.environ:
        return None
    package = Path(moe_ray.__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    paths = [] if package in installed else [str(package)]
    return JobConfig(_client_job=True, _py_driver_sys_path=paths)
