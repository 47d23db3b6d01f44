"""Verification: a mixture that is what it says holds, and whatever is changed afterwards is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from moe_ray.checkpoints.identity import CERTIFICATE_FILE
from moe_ray.errors import ModelError, UserError
from moe_ray.moe.certificate import own_files
from moe_ray.moe.upcycle.build import build_upcycle
from moe_ray.moe.upcycle.request import GateRequest, Limits, UpcycleRequest
from moe_ray.moe.verify import verify
from tests.support.tiny_models import make_tiny_checkpoint

LOOSE = Limits(max_kl=1e9, max_perplexity_ratio=1e9, min_agreement=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_tiny_checkpoint(folder / "dense", "llama")
    texts = folder / "texts.jsonl"
    pairs = [("the law of the court", "law"), ("a drug and a cell is a list", "cells")]
    texts.write_text("".join(json.dumps({"text": text, "expert": expert}) + "\n" for text, expert in pairs))
    gate = GateRequest(init="ridge")
    request = UpcycleRequest(
        num_experts=2, layers=[1], experts="noise", noise=0.01, texts=str(texts), gate=gate, limits=LOOSE
    )
    build_upcycle(folder / "dense", folder / "out", request)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to change, whose certificate names the sources in it."""
    shutil.copytree(made, tmp_path / "copy")

    def there(certificate: dict[str, Any]) -> None:
        certificate["sources"][0]["path"] = str(tmp_path / "copy" / "dense")
        certificate["settings"]["texts"] = str(tmp_path / "copy" / "texts.jsonl")

    edit(tmp_path / "copy" / "out", there)
    return tmp_path / "copy"


def edit(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = out / CERTIFICATE_FILE
    certificate = json.loads(path.read_text())
    change(certificate)
    path.write_text(json.dumps(certificate))


def outcomes(out: Path, **moved: Path) -> dict[str, bool | None]:
    return {finding.what: finding.holds for finding in verify(out, moved)}


def change_weights(directory: Path, name: str) -> None:
    weights = load_file(directory / "model.safetensors")
    weights[name] = weights[name] + 1e-3
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def test_all_holds_of_a_mixture_that_nobody_touched(folder: Path) -> None:
    found = outcomes(folder / "out")
    assert set(found) == {
        "the mixture's files", "names of tensors", "source dense", "tensors", "layers", "exactness against dense",
    }  # fmt: skip
    assert all(found.values())


def test_a_changed_tensor_is_found_even_if_the_files_hash_was_changed_with_it(folder: Path) -> None:
    out = folder / "out"
    changed = "model.layers.1.mlp.experts.0.up_proj.weight"
    change_weights(out, changed)
    edit(out, lambda certificate: certificate.update(tensors_sha256=own_files(out)))
    findings = {finding.what: finding for finding in verify(out)}
    assert [what for what, finding in findings.items() if not finding.holds] == ["tensors"]
    assert changed in findings["tensors"].detail


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda one: one["exactness"][0].update(max_logit_difference=0.0), "exactness against dense"),
        (lambda one: one["exactness"][0].update(reload_equal=False), "exactness against dense"),
        (lambda one: one["exactness"][0].update(num_tokens=1_000_000), "exactness against dense"),
        (lambda one: one["layers"][1]["measured"].update(kl=0.0), "layers"),
        (lambda one: one["layers"][1].update(state="reverted"), "layers"),
        (lambda one: one["layers"][1]["limits"].update(kl=0.1), "layers"),
        (lambda one: one["tensors"].pop(), "names of tensors"),
        (lambda one: one["sources"][0].update(fingerprint="0" * 32), "source dense"),
        (lambda one: one["tensors_sha256"].update({"config.json": "0" * 64}), "the mixture's files"),
        (lambda one: one["tensors_sha256"].pop("model.safetensors"), "the mixture's files"),
    ],
)
def test_a_certificate_that_says_otherwise_is_found(
    folder: Path, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    edit(folder / "out", change)
    assert [name for name, holds in outcomes(folder / "out").items() if holds is False] == [what]


def test_a_source_that_has_changed_is_found(folder: Path) -> None:
    change_weights(folder / "dense", "model.norm.weight")
    found = outcomes(folder / "out")
    assert found["source dense"] is False
    assert found["tensors, layers, exactness"] is None


def test_a_source_that_has_moved_is_asked_for_and_taken_from_its_new_place(folder: Path) -> None:
    (folder / "dense").rename(folder / "elsewhere")
    found = outcomes(folder / "out")
    assert found["source dense"] is None
    assert not any(holds is False for holds in found.values())
    assert all(outcomes(folder / "out", dense=folder / "elsewhere").values())


def test_texts_that_are_others_cannot_tell_anything(folder: Path) -> None:
    other = folder / "other.jsonl"
    other.write_text(json.dumps({"text": "something else", "expert": "law"}) + "\n")
    assert outcomes(folder / "out", texts=other)["recomputation"] is None
    (folder / "texts.jsonl").rename(folder / "moved.jsonl")
    assert outcomes(folder / "out")["recomputation"] is None
    assert all(outcomes(folder / "out", texts=folder / "moved.jsonl").values())


def test_a_mixture_that_was_never_tested_is_compared_but_not_vouched_for(folder: Path) -> None:
    request = UpcycleRequest(num_experts=2, check=False)
    build_upcycle(folder / "dense", folder / "unchecked", request)
    found = outcomes(folder / "unchecked")
    assert found["tensors"] is True
    assert found["exactness"] is None


def test_a_name_of_no_source_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="no source is called dance"):
        outcomes(folder / "out", dance=folder)


def test_a_folder_without_a_certificate_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError):
        outcomes(folder / "dense")
    (folder / "out" / CERTIFICATE_FILE).write_text("{}")
    with pytest.raises(ModelError, match="is not a certificate"):
        outcomes(folder / "out")


def test_verifying_leaves_the_mixture_as_it_was(folder: Path) -> None:
    before = own_files(folder / "out")
    outcomes(folder / "out")
    assert own_files(folder / "out") == before
