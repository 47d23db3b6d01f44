"""What a worker may import: nothing that lies in the directory where the driver was started."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moe_ray
from moe_ray.execution.cluster import INJECTED, job_options

pytestmark = pytest.mark.slow

DRIVER = """
import json, sys
from moe_ray.config.schema import RuntimeConfig
from moe_ray.execution.cluster import connect

def look():
    import pandas
    import moe_ray
    return [sys.path, pandas.__file__, moe_ray.__file__]

with connect(RuntimeConfig()):
    import ray
    print("found", json.dumps(ray.get(ray.remote(num_cpus=0)(look).remote())))
"""


def test_a_workers_import_path_lacks_the_drivers_working_directory(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").write_text("raise SystemExit('this file is no library')")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    package = str(Path(moe_ray.__file__).parents[1])
    driver = f"import sys; sys.path.insert(0, {package!r})\n{DRIVER}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", driver],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    answers = [line.removeprefix("found ") for line in done.stdout.splitlines() if line.startswith("found ")]
    assert answers, done.stderr
    path, pandas_file, package_file = json.loads(answers[0])
    assert str(tmp_path) not in path
    assert Path(pandas_file).name == "__init__.py"
    assert package_file == moe_ray.__file__


def test_a_submitted_job_keeps_the_configuration_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INJECTED, "{}")
    assert job_options() == {}
