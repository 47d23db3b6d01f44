"""`moe-ray moe upcycle` and `verify`: what they print, what they leave, and how they end."""

import json
from pathlib import Path

import pytest

from moe_ray.checkpoints.identity import CERTIFICATE_FILE
from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_RUN_FAILED, EXIT_USAGE, reported
from moe_ray.moe.certificate import read_certificate
from tests.support.tiny_models import make_tiny_checkpoint


def moe(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["moe-ray", "moe", *map(str, arguments)])
        patch.setenv("COLUMNS", "160")
        return reported(app)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "dense", "llama")


def test_a_mixture_is_planned_made_told_of_and_verified(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert moe("upcycle", dense, "--out", out, "--num-experts", 2, "--every", 2) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0] == f"{dense}: llama, to qwen2_moe"
    assert lines[1] == "  1 of 2 layers (1), 2 experts each, 2 answer a token"
    verdicts = [line for line in lines if "converted" in line]
    assert len(verdicts) == 1
    assert "bit-equal" in text
    assert "NOT" not in text
    assert lines[-1] == f"Mixture: {out}"
    assert moe("verify", out) == 0
    checks = capsys.readouterr().out.splitlines()
    assert len(checks) == 6
    assert all(line.startswith("holds") for line in checks)


def test_every_option_reaches_the_certificate(dense: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    pairs = [("the law of the court", "law"), ("a drug and a cell", "cells")]
    texts.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs))
    options = {
        "num-experts": 4, "top-k": 4, "layers": "0,1", "experts": "noise", "noise": 0.001, "redraw": 0.01, "groups": 2,
        "gate": "prompts", "gate-scale": 3, "texts": texts, "max-kl": 100, "max-perplexity-ratio": 100,
        "min-agreement": 0, "max-tokens": 50, "seed": 5,
    }  # fmt: skip
    flat = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert moe("upcycle", dense, "--out", tmp_path / "out", *flat) == 0
    settings = read_certificate(tmp_path / "out").settings
    assert (settings["num_experts"], settings["top_k"], settings["groups"], settings["layers"]) == (4, 4, 2, [0, 1])
    assert (settings["experts"], settings["noise"], settings["reinitialised_share"]) == ("noise", 0.001, 0.01)
    assert settings["gate"] == {"init": "prompts", "scale": 3.0, "penalty": 0.01}
    assert settings["limits"] == {
        "max_difference": 1e-5, "max_kl": 100.0, "max_perplexity_ratio": 100.0, "min_agreement": 0.0,
    }  # fmt: skip
    assert (settings["texts"], settings["max_tokens"], settings["seed"]) == (str(texts), 50, 5)


def test_layers_that_all_fail_end_with_1_and_leave_nothing(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--num-experts", 2, "--experts", "noise", "--noise", 1)
    assert moe("upcycle", dense, "--out", out, *arguments) == EXIT_RUN_FAILED
    assert "layer 1: kl" in capsys.readouterr().err
    assert not out.exists()


def test_a_certificate_that_does_not_hold_ends_with_1_and_one_that_cannot_be_checked_with_2(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert moe("upcycle", dense, "--out", out, "--num-experts", 2) == 0
    dense.rename(tmp_path / "moved")
    assert moe("verify", out) == EXIT_USAGE
    assert "--source dense=PATH" in capsys.readouterr().out
    assert moe("verify", out, "--source", f"dense={tmp_path / 'moved'}") == 0
    certificate = json.loads((out / CERTIFICATE_FILE).read_text())
    certificate["layers"][0]["state"] = "dense"
    (out / CERTIFICATE_FILE).write_text(json.dumps(certificate))
    assert moe("verify", out, "--source", f"dense={tmp_path / 'moved'}") == EXIT_RUN_FAILED
    assert "DIFFERS      layers: layer 0 is dense in the certificate, and is now converted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--top-k", 3, "--num-experts", 2), "3 of 2 experts"),
        (("--layers", "7"), "layers [7]"),
        (("--layers", "two"), "'two' names no layers"),
        (("--gate", "magic"), "magic"),
        (("--gate", "ridge"), "ridge gates of no texts"),
        (("--max-tokens", 0), "max_tokens"),
        (("--experts", "models"), "experts of no models"),
        (("--experts", "models", "--fine-tune", "nowhere", "--fine-tune", "nowhere", "--num-experts", 2), "nowhere"),
        (("--texts", "nowhere.jsonl"), "no such file"),
        (("--every", 2, "--layers", "1"), "every 2"),
    ],
)
def test_a_mistake_is_refused_before_any_work(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], says: str
) -> None:
    assert moe("upcycle", dense, "--out", tmp_path / "out", *arguments) == EXIT_USAGE
    shown = capsys.readouterr()
    assert says in shown.err
    assert "remedy" in shown.err
    assert "Converting" not in shown.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["dense", "=x", "dense="])
def test_a_source_without_name_or_path_is_refused(source: str, tmp_path: Path) -> None:
    assert moe("verify", tmp_path, "--source", source) == EXIT_USAGE
