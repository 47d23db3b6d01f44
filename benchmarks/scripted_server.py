"""`moe-ray serve` with scripted models, for benchmarks of what surrounds a model."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_ray.config.load import load_experiment
from moe_ray.execution.observer import LoggingObserver
from moe_ray.runs.serve import serving


@contextlib.contextmanager
def scripted_server(folder: Path, models: Mapping[str, Mapping[str, Any]], **options: Any) -> Iterator[int]:
    """Serve `models`, which map names to settings of the scripted engine; the first is the baseline. Yield the port.

    `options` are settings of `serving`. Each model has a slot of its own.
    """
    (folder / "asked.jsonl").write_text(json.dumps({"id": "1", "q": "?", "a": "x"}))
    experiment = {
        "name": "scripted",
        "models": {
            name: {"path": f"./{name}", "engine": "scripted", "engine_settings": dict(settings)}
            for name, settings in models.items()
        },
        "baseline": next(iter(models)),
        "matrix": "full",
        "domains": {
            "any": {
                "task": "free_text",
                "data": {"source": "./asked.jsonl"},
                "columns": {"question": "q", "reference": "a"},
            }
        },
        "runtime": {"temp_dir": str(folder / "r"), "cpu_slots": len(models)},
        "serving": {"port": 0, **options},
        "output": {"results_dir": str(folder / "results")},
    }
    path = folder / "scripted.yaml"
    path.write_text(json.dumps(experiment))
    with serving(load_experiment(path), LoggingObserver(logging.getLogger("benchmark"))) as served:
        yield served.system.serving.port
