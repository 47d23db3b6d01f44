"""What tests with requests of schemathesis share. A test that imports this is skipped where that is not installed.

SERVING_FUZZ_EXAMPLES sets the number of requests or sequences.
"""

import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.support.served import Endpoint

schemathesis = pytest.importorskip("schemathesis")

MARKS = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:schemathesis"),
]


def fuzzing(num_examples: int, **more: Any) -> settings:
    """Settings of Hypothesis: requests are made and never judged by the clock, stored or shrunk."""
    return settings(
        max_examples=int(os.environ.get("SERVING_FUZZ_EXAMPLES", num_examples)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        **more,
    )


def document_of(endpoint: Endpoint) -> Any:
    """Return the served OpenAPI document, as schemathesis reads it."""
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")


def require_ready(endpoint: Endpoint, summary: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Print what was sent in place of what the requests printed; the server must still be ready."""
    capsys.readouterr()
    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\n")
    assert endpoint.client.get("/readyz").status_code == 200
