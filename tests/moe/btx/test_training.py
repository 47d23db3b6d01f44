"""Training a part of a model: what learns, what stays, and what a stop in between changes (nothing)."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from moe_ray.errors import DataError, ModelError, RunDirectoryError
from moe_ray.moe.btx.pretrain import write_base
from moe_ray.moe.btx.request import ExpertTraining
from moe_ray.moe.btx.state import load_entropy
from moe_ray.moe.btx.texts import read_expert_texts
from moe_ray.moe.btx.tokens import learn_tokenizer
from moe_ray.moe.btx.training import ExpertTrainingJob, batch_of_step, learning_rate_share, token_blocks, train
from moe_ray.progress import TrainingProgress
from tests.moe.btx.worlds import TRAINING, pretrain_config


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model, and the texts that its vocabulary was learned from beside it."""
    folder = tmp_path_factory.mktemp("base")
    config = pretrain_config(folder)
    # Dropout draws random numbers, which a resumed training must go on with.
    architecture = {**(config.architecture or {}), "resid_dropout": 0.2, "embed_dropout": 0.1}
    texts = read_expert_texts(config.experts, folder, held_out_fraction=0.1)
    words = [text for one in texts.values() for text in one.train]
    write_base(config.model_copy(update={"architecture": architecture}), words, folder / "base")
    return folder / "base"


def job_of(base: Path, out: Path, **changed: Any) -> ExpertTrainingJob:
    config = pretrain_config(base.parent)
    texts = read_expert_texts(config.experts, base.parent, held_out_fraction=0.1)["coding"].train
    settings = ExpertTraining.model_validate({**TRAINING, **changed})
    return ExpertTrainingJob(model_dir=base, out_dir=out / "coding", texts=texts, settings=settings, part="networks")


def tensors(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def loss_of(progress: TrainingProgress) -> float:
    assert progress.loss is not None
    return progress.loss


def test_only_the_networks_of_an_expert_learn_and_its_loss_falls(base: Path, tmp_path: Path) -> None:
    job = job_of(base, tmp_path, steps=40)
    steps = list(train(job))
    assert steps[-1].step == steps[-1].num_steps == 40
    assert loss_of(steps[-1]) < 0.9 * loss_of(steps[0])
    before, after = tensors(base), tensors(job.out_dir)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".mlp." in name}
    assert len(changed) == 8


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_after", [1, 7, 11])
def test_a_training_that_was_stopped_ends_in_the_same_weights(
    base: Path, tmp_path: Path, precision: str, stop_after: int
) -> None:
    whole, stopped = (job_of(base, tmp_path / name, precision=precision) for name in ("whole", "stopped"))
    list(train(whole))
    assert [event.step for event in islice(train(stopped), stop_after)][-1] == stop_after
    again = list(train(stopped))
    assert again[0].step == stop_after // 5 * 5 + 1
    there, here = tensors(whole.out_dir), tensors(stopped.out_dir)
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert whole.record_file.read_text() == stopped.record_file.read_text()
    assert not stopped.state_file.exists()


def test_a_finished_training_is_not_done_again(base: Path, tmp_path: Path) -> None:
    job = job_of(base, tmp_path)
    assert list(train(job))
    assert list(train(job)) == []


def test_a_state_or_a_record_of_another_training_is_refused(base: Path, tmp_path: Path) -> None:
    job, other = job_of(base, tmp_path), job_of(base, tmp_path, learning_rate=1e-3)
    assert [event.step for event in islice(train(job), 6)][-1] == 6
    with pytest.raises(RunDirectoryError, match="state of a training with other"):
        list(train(other))
    list(train(job))
    with pytest.raises(RunDirectoryError, match="of a training with other"):
        list(train(other))
    job.record_file.unlink()
    job.state_file.write_bytes(b"half")
    with pytest.raises(RunDirectoryError, match="damaged state"):
        list(train(job))


def test_mixed_precision_rounds_what_is_computed_and_not_the_weights(base: Path, tmp_path: Path) -> None:
    full, mixed = (job_of(base, tmp_path / name, precision=name) for name in ("float32", "bfloat16"))
    losses = [loss_of(next(iter(train(job)))) for job in (full, mixed)]
    assert 1e-6 < abs(losses[0] - losses[1]) < 0.05
    list(train(mixed))
    assert {tensor.dtype for tensor in tensors(mixed.out_dir).values()} == {torch.float32}


@pytest.mark.parametrize("parts", [2, 3])
def test_a_step_in_parts_is_the_same_step(base: Path, tmp_path: Path, parts: int) -> None:
    plain = (base / "config.json").read_text().replace('"resid_dropout": 0.2', '"resid_dropout": 0.0')
    without = tmp_path / "without-dropout"
    shutil.copytree(base, without)
    (without / "config.json").write_text(plain.replace('"embed_dropout": 0.1', '"embed_dropout": 0.0'))
    whole, cut = (
        job_of(without, tmp_path / name, batch_size=3, gradient_accumulation_steps=number)
        for name, number in (("whole", 1), ("cut", parts))
    )
    assert whole.identity() == cut.identity()
    losses = [[loss_of(event) for event in train(job)] for job in (whole, cut)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    there, here = tensors(whole.out_dir), tensors(cut.out_dir)
    assert all(torch.allclose(there[name], here[name], atol=1e-5) for name in there)
    assert any(not torch.equal(tensors(without)[name], here[name]) for name in here)


def test_how_often_a_state_is_kept_does_not_make_it_another_training(base: Path, tmp_path: Path) -> None:
    job = job_of(base, tmp_path)
    assert job.identity() == job_of(base, tmp_path, checkpoint_every=3).identity()
    assert job.identity() != job_of(base, tmp_path, seed=1).identity()
    assert job.identity() != replace(job, texts=job.texts[1:]).identity()


def test_every_block_is_learned_from_once_before_any_is_seen_again() -> None:
    drawn = [place for step in range(10) for place in batch_of_step(step, num_blocks=7, batch_size=4, seed=3)]
    epochs = [drawn[start : start + 7] for start in range(0, 35, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_blocks_are_the_texts_one_after_the_other_with_an_end_after_each() -> None:
    tokenizer = learn_tokenizer(["a cat", "two dogs"], 270)
    blocks = token_blocks(tokenizer, ["a cat", "two \ud800dogs", "é"], block_tokens=3)
    assert blocks.shape[1] == 3
    text = tokenizer.decode(blocks.flatten().tolist())
    assert text.startswith("a cat<|endoftext|>two ?dogs<|endoftext|>")
    with pytest.raises(DataError, match="do not fill one block of 100"):
        token_blocks(tokenizer, ["a cat"], block_tokens=100)


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    shares = [learning_rate_share(step, 20, 0.25) for step in range(20)]
    assert shares[4] == shares[5] == 1.0 == max(shares)
    assert shares[:5] == sorted(shares[:5])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert 0 < shares[-1] < 0.02


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([5, 5, 5], 1.0), ([7, 0], 0.0), ([3, 1], (0.75 * math.log2(4 / 3) + 0.25 * 2))],
)
def test_load_entropy_is_one_when_even_and_nothing_when_one_expert_has_all(counts: list[int], expected: float) -> None:
    assert load_entropy(torch.tensor(counts)) == pytest.approx(expected, abs=1e-12)


def test_steps_follow_from_epochs_unless_they_are_given() -> None:
    assert ExpertTraining(batch_size=4, epochs=2.5).num_steps(10) == 7
    assert ExpertTraining(batch_size=4).num_steps(10) == 3
    assert ExpertTraining(steps=9).num_steps(10) == 9
    with pytest.raises(ValidationError, match="steps or epochs"):
        ExpertTraining(steps=9, epochs=1)


def test_a_family_whose_mixtures_cannot_let_one_expert_answer_is_refused(tmp_path: Path) -> None:
    config = pretrain_config(tmp_path, architecture={"model_type": "llama"})
    with pytest.raises(ModelError, match="mixtures of llama") as caught:
        write_base(config, ["some text"], tmp_path / "base")
    assert "gpt2, gpt_neo, opt" in str(caught.value)
