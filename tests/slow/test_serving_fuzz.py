"""Requests that schemathesis makes from the served OpenAPI document, valid and invalid ones, sent over HTTP."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from tests.execution.experiments import scripted
from tests.support.fuzzed import MARKS, document_of, fuzzing, require_ready, schemathesis
from tests.support.served import (
    EXPERTS,
    Endpoint,
    endpoint_of,
    require_refusal_in_openais_shape,
    train_router,
    write_served,
)

pytestmark = MARKS

NUM_EXAMPLES = 30  # of each operation in each mode
MODELS = ("baseline", *EXPERTS.values())


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("served")
    models: dict[str, dict[str, Any]] = {name: {**scripted(), "path": f"scripted/{name}"} for name in MODELS}
    with endpoint_of(write_served(folder, models, router=train_router(folder / "router"))) as served:
        yield served


@pytest.fixture(scope="module")
def operations(endpoint: Endpoint) -> dict[str, Any]:
    """The operations of the document, by method and path."""
    found = [result.ok() for result in document_of(endpoint).get_all_operations()]
    return {f"{one.method.upper()} {one.path}": one for one in found}


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_request_ends_in_a_fault_and_every_error_has_openais_shape(
    endpoint: Endpoint, operations: dict[str, Any], mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the requests names a model that exists, so that it goes all the way."""
    statuses: Counter[int] = Counter()
    named = st.sampled_from([*MODELS, "auto", None])
    for operation in operations.values():
        if mode == "negative" and not operation.body:
            continue  # without a parameter, no request is invalid
        requests = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @seed(0)
        @fuzzing(NUM_EXAMPLES)
        @given(case=requests, model=named)
        def send(case: Any, model: str | None) -> None:
            if model is not None and isinstance(case.body, dict):
                case.body["model"] = model
            response = case.call(base_url=endpoint.url)
            statuses[response.status_code] += 1
            require_refusal_in_openais_shape(response)

        send()
    require_ready(endpoint, f"{mode}: {statuses.total()} requests, by status {dict(statuses)}", capsys)
    assert statuses[200] > 0
    assert statuses[400] > 0
