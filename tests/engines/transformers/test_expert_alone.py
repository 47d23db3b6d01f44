"""One expert of a mixture that chooses experts for each token, alone under the engine."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.architectures import register
from moe_ray.architectures.gpt2_moe import GPT2MoeConfig, GPT2MoeForCausalLM
from moe_ray.errors import ModelError
from tests.engines.asking import TEXTS, ask_all, completion, engine, measure
from tests.support.tiny_models import CONTEXT_LENGTH, make_tokenizer

NUM_EXPERTS = 3


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of this package's GPT-2 class, and a tokenizer."""
    register()
    directory, tokenizer = tmp_path_factory.mktemp("gpt2_moe"), make_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_LENGTH, "initializer_range": 0.5}
    torch.manual_seed(0)
    config = GPT2MoeConfig(vocab_size=len(tokenizer), num_experts=NUM_EXPERTS, **shape, **ends)
    mixture: Any = GPT2MoeForCausalLM(config)
    mixture.generation_config = transformers.GenerationConfig(eos_token_id=1)
    mixture.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_each_expert_alone_says_what_generate_with_it_says(directory: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    said = set()
    for expert in range(NUM_EXPERTS):
        answers = engine(directory, engine_settings={"expert": expert}).generate(ask_all(num=8))
        for text, answer in zip(TEXTS, answers, strict=True):
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 2, "forced_expert": expert}
            expected = [token for token in model.generate(ids, **how)[0, ids.shape[1] :].tolist() if token != 1]
            assert list(answer.token_ids) == expected
        said.add(tuple(answer.token_ids for answer in answers))
    assert len(said) == NUM_EXPERTS


def test_an_expert_alone_measures_other_likelihoods_than_the_mixture(directory: Path) -> None:
    asked = [measure(completion(TEXTS[1], choices=(" yes", " no")))]
    (alone,) = engine(directory, engine_settings={"expert": 1}).loglikelihoods(asked)
    (mixed,) = engine(directory).loglikelihoods(asked)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    ids = transformers.AutoTokenizer.from_pretrained(directory)(TEXTS[1] + " yes", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids, forced_expert=1).logits[0, -2].double().log_softmax(dim=-1)[ids[0, -1]]
    assert alone.loglikelihoods[0] == pytest.approx(float(expected), abs=1e-4)
    assert alone.loglikelihoods != mixed.loglikelihoods


def test_continuous_batching_which_would_let_all_experts_answer_is_refused_for_one(directory: Path) -> None:
    with pytest.raises(ModelError, match="does not pass on the settings expert and mode"):
        engine(directory, engine_settings={"expert": 0, "batching": "continuous"})
