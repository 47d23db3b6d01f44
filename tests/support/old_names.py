"""Files as earlier versions wrote them, which called out-of-domain queries foreign."""

import json
from pathlib import Path
from typing import Any

OLD_NAMES = {
    "confident_temperature": "sure_temperature",
    "out_of_domain_score": "foreign_score",
    "validation_out_of_domain": "validation_foreign",
    "out_of_domain": "foreign",
    "num_out_of_domain": "num_foreign",
}


def with_old_names(value: Any) -> Any:
    """Return plain values with the old name of every key that was renamed."""
    if isinstance(value, dict):
        return {OLD_NAMES.get(key, key): with_old_names(item) for key, item in value.items()}
    return [with_old_names(item) for item in value] if isinstance(value, list) else value


def write_old_router(directory: Path) -> None:
    """Turn a saved router into one that an earlier version saved."""
    for name in ("router.json", "test_results.json"):
        path = directory / name
        path.write_text(json.dumps(with_old_names(json.loads(path.read_text()))))
    distances = directory / "mahalanobis.npz"
    if distances.exists():
        distances.rename(directory / "foreign.npz")
