"""Routes on disk: the same when read back, readable by others, damage told."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from moe_ray.errors import RunDirectoryError
from moe_ray.store.routes import Routes
from moe_ray.store.run_directory import RunDirectory

ROUTES = Routes(
    router="abc",
    domains=("law", "code"),
    threshold=0.5,
    example_domains=("law", "code", "code"),
    example_ids=("l1", "c1", "c2"),
    probabilities=np.array([[0.75, 0.25], [0.5, 0.5], [0.1, 0.2]]),
    scores=np.array([0.9, 0.5, 0.3]),
    seconds=np.array([0.001, 0.002, 0.003]),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path)
    run.prepare()
    run.write_routes(ROUTES)
    return run


def test_routes_are_the_same_when_they_are_read_back(run: RunDirectory) -> None:
    found = run.routes()
    assert found is not None
    assert (found.router, found.domains, found.threshold) == ("abc", ("law", "code"), 0.5)
    assert (found.example_domains, found.example_ids) == (ROUTES.example_domains, ROUTES.example_ids)
    for name in ("probabilities", "scores", "seconds"):
        assert getattr(found, name).tolist() == getattr(ROUTES, name).tolist()


def test_another_reader_sees_where_each_example_went(run: RunDirectory) -> None:
    rows = pq.read_table(run.routes_path).select(["example_id", "chosen", "is_out_of_domain"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("l1", "law", False), ("c1", "law", False), ("c2", "code", True)]


def test_a_file_of_earlier_versions_is_read(run: RunDirectory) -> None:
    table = pq.read_table(run.routes_path)
    old = ["is_foreign" if name == "is_out_of_domain" else name for name in table.column_names]
    pq.write_table(table.rename_columns(old).replace_schema_metadata(table.schema.metadata), run.routes_path)
    found = run.routes()
    assert found is not None
    assert found.is_out_of_domain.tolist() == [False, False, True]


def test_rows_are_found_by_example_and_those_not_asked_are_minus_one() -> None:
    assert ROUTES.rows("code", ["c2", "l1", "c1"]).tolist() == [2, -1, 1]


def test_a_run_without_a_router_has_no_routes(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).routes() is None


@pytest.mark.parametrize("damage", [b"", b"not parquet"])
def test_a_damaged_file_is_told_with_what_to_do(run: RunDirectory, damage: bytes) -> None:
    run.routes_path.write_bytes(damage)
    with pytest.raises(RunDirectoryError, match="cannot be read") as caught:
        run.routes()
    assert caught.value.where == str(run.routes_path)


def test_the_table_of_another_tool_is_refused(run: RunDirectory) -> None:
    pq.write_table(pq.read_table(run.routes_path).replace_schema_metadata(None), run.routes_path)
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        run.routes()


def test_other_routes_are_another_state_of_the_run(run: RunDirectory) -> None:
    before = run.files_fingerprint()
    run.write_routes(ROUTES)
    assert run.files_fingerprint() == before
    run.routes_path.unlink()
    assert run.files_fingerprint() != before
