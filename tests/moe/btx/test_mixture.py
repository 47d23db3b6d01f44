"""From texts to a mixture and on: experts that stay what they were, gates that learn, certificates that hold."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from moe_ray.errors import ConfigError, ModelError, RunDirectoryError
from moe_ray.moe.btx.finetune import finetune
from moe_ray.moe.btx.pretrain import pretrain
from moe_ray.moe.btx.request import FinetuneSettings
from moe_ray.moe.btx.texts import read_expert_texts
from moe_ray.moe.btx.tokens import bits_per_byte, nats_by_text
from moe_ray.moe.certificate import read_certificate
from moe_ray.moe.generation import GenerateSettings, write
from moe_ray.moe.running import load_for_construction, load_tokenizer
from moe_ray.moe.verify import verify
from tests.moe.btx.worlds import TRAINING, WORDS, pretrain_config

FINETUNING = {**TRAINING, "steps": 8, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pretraining with an anchor and three experts."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = pretrain_config(folder, anchor={**TRAINING, "steps": 4})
    pretrain(config, folder, folder / "out")
    return folder / "out"


def mixed_texts(pretrained: Path) -> tuple[str, ...]:
    config = pretrain_config(pretrained.parent)
    texts = read_expert_texts(config.experts, pretrained.parent, held_out_fraction=0.1)
    return tuple(text for one in texts.values() for text in one.train)


def tensors(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def finetuned(pretrained: Path, out: Path, **changed: Any) -> Path:
    settings = FinetuneSettings.model_validate({**FINETUNING, **changed})
    finetune(pretrained / "mixture", out, mixed_texts(pretrained), settings, held_out={"all": ["sum is seven"]})
    return out


def test_each_expert_of_the_mixture_alone_writes_what_its_own_checkpoint_writes(pretrained: Path) -> None:
    certificate = read_certificate(pretrained / "mixture")
    assert [record.against for record in certificate.exactness] == list(WORDS)
    assert all(record.max_logit_difference <= 1e-5 for record in certificate.exactness)
    assert all(record.greedy_agreement == 1 and record.reload_equal for record in certificate.exactness)
    said = set()
    for name, words in WORDS.items():
        prompt = " ".join(words[:3])
        written = write(pretrained / "mixture", prompt, GenerateSettings(expert=name, max_new_tokens=20))
        dense, tokenizer = (load(pretrained / "experts" / name) for load in (load_for_construction, load_tokenizer))
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        how = transformers.GenerationConfig(
            max_new_tokens=20, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        answer = dense.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)[0, ids.shape[1] :]
        assert written.expert == name
        assert written.text == tokenizer.decode(answer, skip_special_tokens=True)
        said.add(written.text)
    assert len(said) == len(WORDS)


def test_the_experts_share_the_anchors_backbone_and_nothing_else(pretrained: Path) -> None:
    anchor, mixture = tensors(pretrained / "anchor"), tensors(pretrained / "mixture")
    backbone = {name for name in anchor if ".mlp." not in name}
    assert all(torch.equal(mixture[name], anchor[name]) for name in backbone)
    for at, name in enumerate(WORDS):
        expert = tensors(pretrained / "experts" / name)
        assert all(torch.equal(expert[one], anchor[one]) for one in backbone)
        up = "transformer.h.1.mlp.{}"
        assert torch.equal(mixture[up.format("experts.up_proj")][at], expert[up.format("c_fc.weight")])
        assert not torch.equal(expert[up.format("c_fc.weight")], anchor[up.format("c_fc.weight")])


def test_a_pretraining_may_be_run_again_and_another_one_is_refused(pretrained: Path) -> None:
    config = pretrain_config(pretrained.parent, anchor={**TRAINING, "steps": 4})
    before = tensors(pretrained / "mixture")
    steps: list[object] = []
    record = pretrain(config, pretrained.parent, pretrained, on_step=steps.append)
    assert steps == []
    assert list(record.bits_per_byte) == ["base", "anchor", *(f"experts/{name}" for name in WORDS), "mixture"]
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors(pretrained / "mixture").items())
    (pretrained / "pretrain.json").write_text("half")
    assert pretrain(config, pretrained.parent, pretrained, on_step=steps.append) == record
    assert steps == []
    with pytest.raises(RunDirectoryError, match="something other than this pretraining"):
        pretrain(config.model_copy(update={"top_k": 1}), pretrained.parent, pretrained)


def test_a_training_that_left_nothing_on_this_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="training of coding finished, but") as caught:
        pretrain(pretrain_config(tmp_path), tmp_path, tmp_path / "out", run=lambda jobs: iter(()))
    assert "all nodes of the cluster share" in str(caught.value)


def test_finetuning_the_gates_leaves_all_else_and_every_expert_as_it_was(pretrained: Path, tmp_path: Path) -> None:
    out = finetuned(pretrained, tmp_path / "tuned")
    before, after = tensors(pretrained / "mixture"), tensors(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith("mlp.gate.weight")}
    assert len(changed) == 2
    assert all(record.max_logit_difference <= 1e-5 for record in read_certificate(out).exactness)
    assert not (tmp_path / "tuned.training").exists()
    wrong = [finding for finding in verify(out) if not finding.holds]
    assert wrong == []


def test_finetuning_the_experts_too_says_how_far_they_went(pretrained: Path, tmp_path: Path) -> None:
    out = finetuned(pretrained, tmp_path / "tuned", with_experts=True)
    before, after = tensors(pretrained / "mixture"), tensors(out)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if ".mlp." in name
    }
    assert all(record.max_logit_difference > 1e-3 for record in read_certificate(out).exactness)
    assert [finding for finding in verify(out) if not finding.holds] == []


def test_a_finetuning_tells_each_layers_load_and_losses(pretrained: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings.model_validate(FINETUNING)
    held_out = {"all": ["sum is seven"]}
    record = finetune(pretrained / "mixture", tmp_path / "a", mixed_texts(pretrained), settings, held_out=held_out)
    assert [point.step for point in record.history] == list(range(1, 9))
    for point in record.history:
        assert point.load_entropy is not None
        assert list(point.load_entropy) == [0, 1]
        assert all(0 <= share <= 1 for share in point.load_entropy.values())
        assert point.balancing is not None
        # Even loads give 2; a little less where the gates' probabilities lean another way than their loads.
        assert 2 - 0.05 <= point.balancing <= 3
        assert point.z is not None
        assert point.z > 0


def test_a_finetuning_that_was_stopped_ends_in_the_same_weights(pretrained: Path, tmp_path: Path) -> None:
    whole = finetuned(pretrained, tmp_path / "whole")
    settings = FinetuneSettings.model_validate(FINETUNING)

    class StoppedError(Exception):
        pass

    def stop(step: Any) -> None:
        if step.step == 6:
            raise StoppedError

    stopped = tmp_path / "stopped"
    arguments: Any = (pretrained / "mixture", stopped, mixed_texts(pretrained), settings)
    with pytest.raises(StoppedError):
        finetune(*arguments, held_out={}, on_step=stop)
    steps: list[int] = []
    finetune(*arguments, held_out={}, on_step=lambda step: steps.append(step.step))
    assert steps == [6, 7, 8]
    there, here = tensors(whole), tensors(stopped)
    assert all(torch.equal(there[name], here[name]) for name in there)


def test_a_mixture_verifies_until_one_of_its_experts_is_another(pretrained: Path, tmp_path: Path) -> None:
    assert [finding for finding in verify(pretrained / "mixture") if not finding.holds] == []
    changed = tmp_path / "mixture"
    shutil.copytree(pretrained / "mixture", changed)
    weights = dict(tensors(changed))
    weights["transformer.h.0.mlp.experts.down_proj"][1, 0] += 0.5
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    wrong = {finding.what for finding in verify(changed) if not finding.holds}
    assert wrong == {"the mixture's files", "tensors", "exactness against math"}


def test_what_is_no_mixture_of_experts_trained_apart_is_not_finetuned(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no certificate\.json|has no certificate"):
        finetune(pretrained / "anchor", tmp_path / "x", ["a"], FinetuneSettings(), held_out={})


def test_bits_per_byte_are_those_of_even_odds_for_a_model_that_knows_nothing(pretrained: Path) -> None:
    model, tokenizer = load_for_construction(pretrained / "base"), load_tokenizer(pretrained / "base")
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
    text = " ".join(WORDS["law"] * 20)
    num_tokens = len(tokenizer(text)["input_ids"])
    expected = num_tokens * math.log2(model.config.vocab_size) / len(text)
    assert num_tokens > model.config.max_position_embeddings
    assert bits_per_byte(model, tokenizer, [text]) == pytest.approx(expected, rel=1e-5)
    of_text = num_tokens * math.log(model.config.vocab_size)
    assert nats_by_text(model, tokenizer, ["", text]) == pytest.approx([0.0, of_text], rel=1e-5)


def test_no_text_is_trained_on_and_held_out_and_none_is_two_experts(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path)
    shared = (tmp_path / "law.jsonl").read_text().splitlines()[0]
    with (tmp_path / "math.jsonl").open("a") as file:
        file.write(shared + "\n")
    texts = read_expert_texts(config.experts, tmp_path, held_out_fraction=0.25)
    assert {name: len(one.train) + len(one.held_out) for name, one in texts.items()} == {
        "coding": 12,
        "math": 12,
        "law": 11,
    }
    assert all(one.train and one.held_out for one in texts.values())
    every = [text for one in texts.values() for part in (one.train, one.held_out) for text in part]
    assert len(set(every)) == len(every)


def test_a_domain_that_the_experiment_lacks_is_named(tmp_path: Path) -> None:
    from moe_ray.config.dump import starter_text

    (tmp_path / "experiment.yaml").write_text(starter_text(), encoding="utf-8")
    config = pretrain_config(tmp_path)
    sets = {"a": [config.experts["law"][0].model_copy(update={"source": None, "experiment": "experiment.yaml"})]}
    sets["a"][0] = sets["a"][0].model_copy(update={"domain": "cooking"})
    with pytest.raises(ConfigError, match="no domain cooking"):
        read_expert_texts(sets, tmp_path, held_out_fraction=0.1)
