"""A merged mixture is verified from its certificate, and what was tampered with is found."""

import json
from pathlib import Path

import pytest

from moe_ray.moe.certificate import Certificate, read_certificate
from moe_ray.moe.merge.build import build_merge, recompute
from moe_ray.moe.merge.plan import plan_merge
from moe_ray.moe.verify import Finding
from tests.moe.merge.fine_tunes import change_tensors, make_all


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Certificate, dict[str, Path]]:
    models, gate = make_all(tmp_path)
    change_tensors(models["code"], lambda name, tensor: tensor + 1 if name == "model.norm.weight" else tensor)
    certificate = build_merge(plan_merge(models, gate, take_first=True), tmp_path / "out")
    return tmp_path / "out", certificate, models


def failed(findings: list[Finding]) -> set[str]:
    return {one.what for one in findings if one.holds is not True}


def test_all_that_the_certificate_says_comes_out_again(made: tuple[Path, Certificate, dict[str, Path]]) -> None:
    directory, certificate, models = made
    findings = list(recompute(directory, read_certificate(directory), models))
    assert failed(findings) == set()
    assert len(findings) == 5
    assert read_certificate(directory) == certificate


def test_a_changed_expert_is_found_in_the_tensors_and_in_the_logits(
    made: tuple[Path, Certificate, dict[str, Path]],
) -> None:
    directory, certificate, models = made
    changed = "language_model.model.layers.0.mlp.experts.1.up_proj.weight"
    change_tensors(directory, lambda name, tensor: tensor * 2 if name == changed else tensor)
    findings = list(recompute(directory, certificate, models))
    assert failed(findings) == {"tensors", "exactness against code"}
    assert any(changed in one.detail for one in findings)


def test_a_certificate_that_keeps_quiet_about_a_difference_is_found_out(
    made: tuple[Path, Certificate, dict[str, Path]],
) -> None:
    directory, certificate, models = made
    quiet = certificate.model_copy(
        update={
            "settings": json.loads(json.dumps(certificate.settings)) | {"taken_from_first": []},
            "layers": certificate.layers[:1],
        }
    )
    assert failed(list(recompute(directory, quiet, models))) == {"differences between the sources", "layers"}
