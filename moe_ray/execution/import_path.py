"""What Ray's workers may import: what is installed and this package, nothing from the working directory."""

import os
import sysconfig
from pathlib import Path
from typing import Any

from ray.job_config import JobConfig

import moe_ray

INJECTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def job_options() -> dict[str, Any]:
    """Return what `ray.init` is to be told of this driver's job; nothing inside a submitted job, which is described.

    Ray puts the driver's working directory first on its workers' import path, where a file such as pandas.py would be
    imported in place of the library. It does so for all jobs but those of its client, so the job says that it is one.
    A checkout that is not installed is made importable by the folder that holds it.
    """
    if INJECTED in os.environ:
        return {}
    package = Path(moe_ray.__file__).resolve().parents[1]
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
    paths = [] if package in installed else [str(package)]
    return {"job_config": JobConfig(_client_job=True, _py_driver_sys_path=paths)}
