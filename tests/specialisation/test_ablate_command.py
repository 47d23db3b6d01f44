"""`moe-ray specialise ablate`, `effects` and `prune`, on real checkpoints and on bad input."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.loading import load
from moe_ray.mixtures.intervening import intervened
from moe_ray.mixtures.interventions import Intervention
from moe_ray.specialisation.ablation import records
from moe_ray.specialisation.ablation.measuring import AblationMeter
from moe_ray.specialisation.ablation.records import read_ablation
from tests.specialisation.families import make, rows
from tests.support.commands import Command
from tests.support.tiny_models import make_tiny_checkpoint, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = {"law": ["court", "law", "contract", "is", "the"], "bio": ["drug", "cell", "question", "answer", "of"]}
NUM_TEXTS = 40


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.utils.logging.disable_progress_bar()
    folder, tokenizer = tmp_path_factory.mktemp("mixtral"), make_tokenizer()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_texts(path: Path, **more: Any) -> Path:
    rng = random.Random(1)
    lines = [
        json.dumps({"text": " ".join(rng.choice(words) for _ in range(rng.randint(4, 8))), "label": label, **more})
        for label, words in WORDS.items()
        for _ in range(NUM_TEXTS // 2)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.jsonl")


@pytest.fixture(scope="module")
def asked(mixture: Path, texts: Path) -> tuple[object, ...]:
    """An ablation of one expert of one layer, without its folder."""
    given = ("--texts", texts, "--experts", "1", "--layers", "1", "--batch-size", "21")
    return ("specialise", "ablate", mixture, *given, "--out")


@pytest.fixture(scope="module")
def ablation(asked: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.commands import run

    out = tmp_path_factory.mktemp("ablation") / "a"
    code, shown = run(*asked, out)
    assert code == 0, shown
    assert "Effects of removal  reroute, bits per byte" in shown
    assert "- expert 1, layer 1: " in shown
    assert sorted(path.name for path in out.iterdir()) == [
        "ablation.json", "changes.parquet", "plan.json", "report.json"
    ]  # fmt: skip
    return out


def test_the_effects_are_printed_again_without_a_model_and_without_torch(moe_ray: Command, ablation: Path) -> None:
    before = (ablation / "report.json").read_bytes()
    code, shown = moe_ray("specialise", "effects", ablation, "--json")
    assert code == 0, shown
    report = json.loads(shown)
    assert report["classes"] == {"bio": 20, "law": 20}
    assert {one["kind"] for one in report["effects"]} == {"total", "specific", "selective"}
    assert (ablation / "report.json").read_bytes() == before
    code, shown = moe_ray("specialise", "effects", ablation, "--margin", "5", "--json")
    assert all(one["equivalence_p"] < 0.05 for one in json.loads(shown)["effects"])
    script = (
        "import sys; from pathlib import Path; from moe_ray.cli.ablations import show_effects; "
        f"show_effects(Path({str(ablation)!r}), top=3, as_json=False, margin=None); "
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


class KilledError(Exception):
    """Stands for the end of the process."""


def test_an_ablation_that_was_killed_continues_to_the_same_bytes(
    moe_ray: Command, asked: tuple[object, ...], ablation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, seen = AblationMeter.measure, []

    def counting(meter: AblationMeter, text: Any) -> Any:
        seen.append(text.source.text_id)
        if len(seen) == NUM_TEXTS // 2:
            raise KilledError
        return measure(meter, text)

    monkeypatch.setattr(AblationMeter, "measure", counting)
    with pytest.raises(KilledError):
        moe_ray(*asked, tmp_path / "a")
    parts = list((tmp_path / "a" / "parts").iterdir())
    assert 0 < len(parts) < 3
    code, shown = moe_ray("specialise", "effects", tmp_path / "a")
    assert code == 2
    assert "is not finished" in shown
    code, shown = moe_ray(*asked, tmp_path / "a")
    assert code == 0, shown
    assert NUM_TEXTS < len(seen) < NUM_TEXTS * 3 // 2  # what was complete is not read again
    for path in ablation.iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes(), path.name
    num_read = len(seen)
    code, shown = moe_ray(*asked, tmp_path / "a")
    assert code == 0, shown
    assert len(seen) == num_read


@pytest.mark.parametrize("change", [("--seed", "1"), ("--operation", "zero"), ("--max-tokens", "5")])
def test_a_folder_with_another_ablation_is_left_alone(
    moe_ray: Command, asked: tuple[object, ...], ablation: Path, change: tuple[str, str]
) -> None:
    before = {path.name: path.read_bytes() for path in ablation.iterdir()}
    code, shown = moe_ray(*asked[:-1], *change, "--out", ablation)
    assert code == 2
    assert "holds an ablation with other" in shown
    assert {path.name: path.read_bytes() for path in ablation.iterdir()} == before


def test_texts_with_choices_are_scored_by_the_right_one(moe_ray: Command, mixture: Path, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts.jsonl", choices=["law", "bio", "no"])
    code, shown = moe_ray(
        "specialise", "ablate", mixture, "--texts", texts, "--out", tmp_path / "a", "--experts", "0",
        "--layers", "whole", "--batch-size", "21", "--operation", "renormalise", "--max-texts", "10",
    )  # fmt: skip
    assert code == 0, shown
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["unit"] == "nats"
    assert set(report["accuracy"]) == {"bio", "law"}
    assert report["no_headroom"]
    assert "no headroom: the intact model is at chance on" in shown
    found = read_ablation(tmp_path / "a")
    assert (found.intact < 0).all()
    assert [(unit.layer, unit.expert) for unit in found.plan.units] == [(records.ALL_LAYERS, 0)]
    assert "expert 0, all layers: " in shown


def test_a_question_after_each_text_scores_the_names_of_the_classes(
    moe_ray: Command, mixture: Path, texts: Path, tmp_path: Path
) -> None:
    given = ("--experts", "0", "--layers", "1", "--batch-size", "21", "--max-tokens", "20")
    code, shown = moe_ray(
        "specialise", "ablate", mixture, "--texts", texts, "--out", tmp_path / "a", "--zero-shot", " question", *given
    )
    assert code == 0, shown
    asked = read_ablation(tmp_path / "a")
    assert (asked.plan.score, asked.plan.num_choices, len(asked.text_ids)) == ("log_p", 2, NUM_TEXTS)
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    short = [one for one in lines if len(one["text"].split()) == 4]
    assert short
    by_hand = [
        json.dumps({"text": f"{one['text']} question", "label": one["label"], "choices": ["bio", "law"]})
        for one in short
    ]
    (tmp_path / "choices.jsonl").write_text("\n".join(by_hand) + "\n")
    code, shown = moe_ray(
        "specialise", "ablate", mixture, "--texts", tmp_path / "choices.jsonl", "--out", tmp_path / "b", *given
    )
    assert code == 0, shown
    equal = set(read_ablation(tmp_path / "b").intact.tolist()) & set(asked.intact.tolist())
    assert equal
    (tmp_path / "one.jsonl").write_text('{"text": "a", "label": "x"}\n')
    code, shown = moe_ray(
        "specialise", "ablate", mixture, "--texts", tmp_path / "one.jsonl", "--out", tmp_path / "c", "--zero-shot", "?"
    )
    assert code == 2
    assert "the texts have 1 class" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--experts", "9"), "layer 0 has no expert 9"),
        (("--layers", "5"), "layer 5 has no experts"),
        (("--experts", "a"), "'a' is not a list of numbers"),
        (("--draws", "5"), "5 control draws"),
        (("--operation", "prune"), "prune"),
    ],
)
def test_what_cannot_be_ablated_is_refused(
    moe_ray: Command, mixture: Path, texts: Path, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    code, shown = moe_ray("specialise", "ablate", mixture, "--texts", texts, "--out", tmp_path / "a", *arguments)
    assert code == 2
    assert "Traceback" not in shown
    assert message in shown
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x", "choices": ["x"]}\n', "has the choices ['x'] and the answer 'x'"),
        ('{"text": "a", "label": "x", "choices": ["y", "z"]}\n', "and the answer 'x'"),
        ('{"text": "a", "label": "x", "choices": "x"}\n', "has the choices []"),
        ('{"text": "a", "label": "x", "choices": ["x", "y"]}\n{"text": "b", "label": "x"}\n', "1 of 2 texts have"),
    ],
)
def test_choices_that_cannot_be_scored_are_refused_before_a_model_is_loaded(
    moe_ray: Command, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "texts.jsonl").write_text(content)
    given = ("--texts", tmp_path / "texts.jsonl", "--out", tmp_path / "a")
    code, shown = moe_ray("specialise", "ablate", "./none", *given)
    assert code == 2
    assert message in shown


def test_a_dense_model_and_a_foreign_folder_are_refused(moe_ray: Command, texts: Path, tmp_path: Path) -> None:
    dense = make_tiny_checkpoint(tmp_path / "dense", "llama")
    code, shown = moe_ray("specialise", "ablate", dense, "--texts", texts, "--out", tmp_path / "a")
    assert code == 2
    assert "no experts found in LlamaForCausalLM" in shown
    code, shown = moe_ray("specialise", "prune", dense, "--experts", "0", "--out", tmp_path / "p")
    assert code == 2
    assert "no experts found in LlamaForCausalLM" in shown
    code, shown = moe_ray("specialise", "effects", tmp_path)
    assert code == 2
    assert "is not an ablation" in shown


def test_a_truncated_table_is_one_message(moe_ray: Command, ablation: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in ablation.iterdir():
        (tmp_path / "a" / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "a" / records.TABLE_FILE
    table.write_bytes(table.read_bytes()[:-9])
    code, shown = moe_ray("specialise", "effects", tmp_path / "a")
    assert code == 2
    assert "is truncated or damaged" in shown


def test_a_pruned_checkpoint_computes_what_the_intervention_does(
    moe_ray: Command, mixture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pruned"
    code, shown = moe_ray("specialise", "prune", mixture, "--experts", "3,0", "--out", out)
    assert code == 0, shown
    assert "4 of 6 experts kept in each of 2 layers" in shown
    whole, pruned = (load(ModelConfig(path=str(path)), TransformersSettings()) for path in (mixture, out))
    assert pruned.model.config.num_local_experts == 4
    with torch.inference_mode():
        found = pruned.model(input_ids=rows()).logits
        with intervened(sites_of(whole, name="m"), Intervention.parse("prune:0,3"), name="m"):
            assert (whole.model(input_ids=rows()).logits - found).abs().max() == 0.0
    code, shown = moe_ray("specialise", "prune", mixture, "--experts", "0", "--out", out)
    assert code == 2
    assert "already exists" in shown
    code, shown = moe_ray("specialise", "prune", mixture, "--experts", "0,1,2,3,4", "--out", tmp_path / "q")
    assert code == 2
    assert "would keep 1 expert, and selects 2" in shown
    assert not (tmp_path / "q").exists()
