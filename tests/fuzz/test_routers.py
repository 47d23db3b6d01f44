"""Damaged routers: they route, or are refused in words; also where the record was forged to fit the damage."""

import json
import shutil
import tempfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_ray.config.schema import RouterConfig
from moe_ray.routing.files import ROUTER_FILE, weights_fingerprint
from moe_ray.routing.training import fit_router
from tests.fuzz.commands import nothing_lost, require_plain_end
from tests.fuzz.damage import damaged_bytes, damaged_json
from tests.routing.queries import DOMAINS, nothing_reported, router_texts
from tests.support.commands import run

FILES = ("router.json", "terms.json", "weights.npz", "mahalanobis.npz")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = RouterConfig.model_validate({"kind": "tfidf", "out_of_domain": {"score": "mahalanobis"}})
    router, *_ = fit_router(config, router_texts(DOMAINS), device="cpu", report=nothing_reported)
    directory = tmp_path_factory.mktemp("fuzz") / "router"
    router.save(directory)
    return directory


def forge(router: Path) -> None:
    """Let the record name the files as they are now, where it can still be read."""
    try:
        record = json.loads((router / ROUTER_FILE).read_bytes())
        record["weights"] = weights_fingerprint(router)
        (router / ROUTER_FILE).write_text(json.dumps(record), encoding="utf-8")
    except (ValueError, TypeError, RecursionError):
        return


@pytest.mark.parametrize("name", FILES)
@given(drawn=st.data())
def test_a_damaged_router_routes_or_is_refused(name: str, valid: Path, drawn: st.DataObject) -> None:
    damage = damaged_json if name.endswith(".json") else damaged_bytes
    with tempfile.TemporaryDirectory() as folder:
        router = Path(folder) / "router"
        shutil.copytree(valid, router)
        (router / name).write_bytes(drawn.draw(damage((valid / name).read_bytes())))
        forge(router)
        with nothing_lost(router):
            require_plain_end("route", "is the lease void?", "--router", str(router))


def test_an_array_that_claims_petabytes_is_refused(valid: Path, tmp_path: Path) -> None:
    router = shutil.copytree(valid, tmp_path / "router")
    with ZipFile(router / "weights.npz", "w") as archive, archive.open("coefficients.npy", "w") as array:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(array, header)
    forge(router)
    code, shown = run("route", "is the lease void?", "--router", str(router))
    assert (code, "does not fit its file" in shown) == (2, True), shown


def test_a_packed_array_larger_than_its_file_is_refused(valid: Path, tmp_path: Path) -> None:
    router = shutil.copytree(valid, tmp_path / "router")
    arrays = dict(np.load(router / "weights.npz"))
    np.savez_compressed(router / "weights.npz", **{**arrays, "intercepts": np.zeros(1 << 22)})
    forge(router)
    code, shown = run("route", "is the lease void?", "--router", str(router))
    assert (code, "does not fit its file" in shown) == (2, True), shown
