"""`moe-ray moe train-gate`, `merge` and `generate`, one after the other, as a person gives them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray import architectures
from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.moe.certificate import read_certificate
from moe_ray.moe.merge.gate import GateTrainingInfo, read_gate
from tests.moe.conftest import Command
from tests.moe.merge.fine_tunes import change_tensors, fine_tune, make_gate
from tests.moe.merge.gates import EXPERTS, write_gate_config
from tests.support.tiny_models import make_tiny_checkpoint

PROMPT = "the court is a question of law"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two fine-tunes, a random gate, a gate's config, and a mixture that transformers has a class for."""
    path = tmp_path_factory.mktemp("models")
    base = make_tiny_checkpoint(path / "base", "llama")
    for seed, expert in enumerate(EXPERTS):
        fine_tune(base, path / expert, seed)
    make_gate(path / "gate", base)
    write_gate_config(path, base, epochs=2)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 128}
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.MixtralConfig(vocab_size=len(tokenizer), num_local_experts=3, **shape, **ends)
    transformers.MixtralForCausalLM(config).save_pretrained(path / "mixtral")
    tokenizer.save_pretrained(path / "mixtral")
    return path


@pytest.fixture(scope="module")
def mixture(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        models = [f"{expert}={folder / expert}" for expert in EXPERTS]
        arguments = ["merge", *models, "--gate", str(folder / "gate"), "--out", str(folder / "mixture")]
        patch.setattr("sys.argv", ["moe-ray", "moe", *arguments])
        assert reported(app) == 0
    return folder / "mixture"


def answer(moe_ray: Command, mixture: Path, *options: object) -> dict[str, Any]:
    code, shown = moe_ray("generate", mixture, "--prompt", PROMPT, "--max-new-tokens", 8, "--json", *options)
    assert code == 0, shown
    found: dict[str, Any] = json.loads(shown)
    return found


def load(directory: Path) -> Any:
    architectures.register()
    return transformers.AutoModelForCausalLM.from_pretrained(directory).eval()


def greedy(directory: Path, **arguments: Any) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    output = load(directory).generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=2, **arguments)
    text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


def test_a_gate_is_trained_and_two_models_are_merged_behind_it(moe_ray: Command, folder: Path, tmp_path: Path) -> None:
    code, shown = moe_ray("train-gate", folder / "gate.json", "--out", tmp_path / "gate")
    assert code == 0, shown
    for said in ("epoch 2:", "held-out sources", "unseen-legal", "Best epoch"):
        assert said in shown
    assert read_gate(tmp_path / "gate").record.experts == list(EXPERTS)
    models = [folder / expert for expert in EXPERTS]
    code, shown = moe_ray("merge", *models, "--gate", tmp_path / "gate", "--out", tmp_path / "mixture")
    assert code == 0, shown
    assert shown.count("bit-equal") == 2
    assert "2 experts in 2 layers, weighted_sum" in shown
    assert [one.max_logit_difference for one in read_certificate(tmp_path / "mixture").exactness] == [0.0, 0.0]
    info = GateTrainingInfo.model_validate_json((tmp_path / "gate" / "training_info.json").read_text())
    merged = load(tmp_path / "mixture")
    for place, expert in enumerate(EXPERTS):
        lines = (folder / f"unseen-{expert}.jsonl").read_text().splitlines()
        chosen = [merged.get_gating_probs(json.loads(line)["text"]).argmax().item() for line in lines]
        assert chosen.count(place) / len(chosen) == pytest.approx(info.held_out_accuracy[f"unseen-{expert}"])


def test_a_merged_mixture_is_verified_wherever_its_sources_are(
    moe_ray: Command, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    assert moe_ray("merge", *EXPERTS, "--gate", "gate", "--out", "out", "--mode", "select_one")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, shown = moe_ray("verify", "here/out")
    assert code == 0, shown
    (tmp_path / "here" / "code").rename(tmp_path / "moved")
    code, shown = moe_ray("verify", "here/out")
    assert code == EXIT_USAGE, shown
    code, shown = moe_ray("verify", "here/out", "--source", "code=moved")
    assert code == 0, shown
    changed = "model.layers.0.mlp.up_proj.weight"
    change_tensors(tmp_path / "moved", lambda name, tensor: tensor + 1 if name == changed else tensor)
    code, shown = moe_ray("verify", "here/out", "--source", "code=moved")
    assert code == 1, shown
    assert "model.safetensors has changed" in shown


def test_text_and_probabilities_are_those_of_transformers_own_generate(moe_ray: Command, mixture: Path) -> None:
    found = answer(moe_ray, mixture)
    assert found["text"] == greedy(mixture)
    tokenizer = transformers.AutoTokenizer.from_pretrained(mixture)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    assert list(found["probabilities"].values()) == pytest.approx(load(mixture).get_gating_probs(ids)[0].tolist())
    assert list(found["probabilities"]) == list(EXPERTS)


@pytest.mark.parametrize(("given", "name"), [("legal", "legal"), ("code", "code"), ("1", "code")])
def test_one_expert_alone_says_what_its_model_says(
    given: str, name: str, moe_ray: Command, mixture: Path, folder: Path
) -> None:
    found = answer(moe_ray, mixture, "--expert", given)
    assert (found["text"], found["expert"]) == (greedy(folder / name), name)


def test_what_is_told_to_a_person(moe_ray: Command, mixture: Path) -> None:
    code, shown = moe_ray("generate", mixture, "--prompt", PROMPT, "--max-new-tokens", 8, "--expert", "legal")
    assert code == 0, shown
    assert "gate: legal 0." in shown
    assert "Expert legal answered alone." in shown


def test_select_one_says_what_the_likeliest_expert_says(moe_ray: Command, mixture: Path, folder: Path) -> None:
    found = answer(moe_ray, mixture, "--mode", "select_one")
    likeliest = max(found["probabilities"], key=found["probabilities"].get)
    assert found["text"] == greedy(folder / likeliest)


def test_drawn_text_follows_from_the_seed(moe_ray: Command, mixture: Path) -> None:
    drawn = [answer(moe_ray, mixture, "--temperature", 3, "--seed", seed)["text"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != answer(moe_ray, mixture)["text"]
    assert answer(moe_ray, mixture, "--temperature", 0)["text"] == answer(moe_ray, mixture, "--greedy")["text"]
    tight = answer(moe_ray, mixture, "--top-p", 1e-6, "--temperature", 3)["text"]
    assert tight == answer(moe_ray, mixture)["text"], "of the likeliest token alone nothing can be drawn"


def test_a_config_file_says_what_options_do_not(moe_ray: Command, mixture: Path, tmp_path: Path) -> None:
    path = tmp_path / "ask.json"
    path.write_text(
        json.dumps({"prompt": PROMPT + " \N{CAT FACE}", "max_new_tokens": 8, "temperature": 3.0, "seed": 1})
    )
    code, shown = moe_ray("generate", mixture, "--config", path, "--json")
    assert code == 0, shown
    assert json.loads(shown)["prompt"].endswith("\N{CAT FACE}")
    assert (
        answer(moe_ray, mixture, "--config", path)["text"]
        == answer(moe_ray, mixture, "--temperature", 3, "--seed", 1)["text"]
    )
    assert answer(moe_ray, mixture, "--config", path, "--greedy")["text"] == greedy(mixture)


def test_a_mixture_that_chooses_by_token_answers_and_says_that_it_has_no_gate_for_prompts(
    moe_ray: Command, folder: Path
) -> None:
    found = answer(moe_ray, folder / "mixtral")
    assert found["text"] == greedy(folder / "mixtral")
    assert found["probabilities"] is None
    assert "mixtral chooses 2 of 3 experts for each token" in found["no_gate"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{mixture}", "--prompt", "x", "--expert", "medical"), "experts are 0 to 1, or legal, code"),
        (("{mixture}", "--prompt", "x", "--expert", "2"), "experts are 0 to 1, or legal, code"),
        (("{mixture}", "--prompt", "x", "--expert", "-1"), "experts are 0 to 1"),
        (("{mixture}",), "no prompt"),
        (("{mixture}", "--prompt", "x", "--max-new-tokens", "1000"), "the context holds 128"),
        (("{mixture}", "--prompt", "x", "--greedy", "--temperature", "1"), "greedy text is not drawn"),
        (("{mixture}", "--prompt", "x", "--top-p", "2"), "--top-p"),
        (("{mixture}", "--prompt", "x", "--config", "none.json"), "no such file"),
        (("{folder}/mixtral", "--prompt", "x", "--expert", "7"), "experts are 0 to 2"),
        (("{folder}/mixtral", "--prompt", "x", "--expert", "0"), "no way to let one expert answer alone"),
        (("{folder}/mixtral", "--prompt", "x", "--mode", "select_one"), "for each token"),
        (("{folder}/base", "--prompt", "x"), "llama has no experts"),
        (("{folder}/nowhere", "--prompt", "x"), "no such directory"),
    ],
)
def test_a_mistake_in_generate_exits_with_two(
    arguments: tuple[str, ...], said: str, moe_ray: Command, mixture: Path, folder: Path
) -> None:
    code, shown = moe_ray("generate", *(part.format(mixture=mixture, folder=folder) for part in arguments))
    assert code == EXIT_USAGE
    assert said in shown
    assert "remedy" in shown


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (("{folder}/legal",), "1 model for 2 experts"),
        (("legal={folder}/legal", "{folder}/code"), "is not the name of an expert"),
        (("legal={folder}/legal", "legal={folder}/code"), "two models for expert legal"),
        (("legal={folder}/legal", "code={folder}/nowhere"), "not a checkpoint"),
    ],
)
def test_a_mistake_in_merge_exits_with_two_and_writes_nothing(
    models: tuple[str, ...], said: str, moe_ray: Command, folder: Path, tmp_path: Path
) -> None:
    given = [model.format(folder=folder) for model in models]
    code, shown = moe_ray("merge", *given, "--gate", folder / "gate", "--out", tmp_path / "out")
    assert code == EXIT_USAGE
    assert said in shown
    assert "remedy" in shown
    assert not (tmp_path / "out").exists()


def test_what_is_taken_from_the_first_is_said(moe_ray: Command, folder: Path, tmp_path: Path) -> None:
    other = fine_tune(folder / "base", tmp_path / "code", 5)
    change_tensors(other, lambda name, tensor: tensor + 1 if name == "model.norm.weight" else tensor)
    merge = ("merge", folder / "legal", other, "--gate", folder / "gate", "--out", tmp_path / "out", "--no-check")
    code, shown = moe_ray(*merge)
    assert code == EXIT_USAGE
    assert "--take-first" in shown
    code, shown = moe_ray(*merge, "--take-first")
    assert code == 0, shown
    assert "taken from legal, though code: model.norm.weight differs by up to 1" in shown


def test_a_prompt_is_asked_in_the_chat_template_where_the_gate_was_trained_so(
    moe_ray: Command, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "gate", tmp_path / "gate")
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    (tmp_path / "gate" / "gate.json").write_text(json.dumps(record | {"prompt_style": "chat"}))
    models = [folder / expert for expert in EXPERTS]
    out = tmp_path / "mixture"
    assert moe_ray("merge", *models, "--gate", tmp_path / "gate", "--out", out, "--no-check")[0] == 0
    chat = load(out).get_gating_probs(f"[user] {PROMPT}\n[assistant]\n")[0].tolist()
    plain = load(out).get_gating_probs(PROMPT)[0].tolist()
    assert list(answer(moe_ray, out)["probabilities"].values()) == pytest.approx(chat)
    assert list(answer(moe_ray, out, "--no-chat")["probabilities"].values()) == pytest.approx(plain)
    assert chat != pytest.approx(plain)
