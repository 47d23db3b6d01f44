"""A mixture of identical experts answers under the engine as its dense model does: it is one more model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.architectures.own import CASES, mixture_of
from tests.engines.asking import TEXTS, ask_all, completion, engine, measure
from tests.support.tiny_models import CONTEXT_LENGTH, make_tokenizer

CHOICES = (" yes", " no", " the question is maybe")


@pytest.fixture(scope="module", params=sorted(CASES))
def checkpoints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The dense checkpoint and the mixture's, with one tokenizer."""
    transformers.utils.logging.disable_progress_bar()
    case, tokenizer = CASES[request.param], make_tokenizer()
    config = case.config()
    config.vocab_size, config.max_position_embeddings = len(tokenizer), CONTEXT_LENGTH
    dense = replace(case, config=lambda: config).dense()
    folder = tmp_path_factory.mktemp(request.param)
    models = {"dense": dense, "mixture": mixture_of(case, dense, mlp_only_layers=[0])}
    for name, model in models.items():
        model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "dense", folder / "mixture"


def test_texts_are_the_dense_models_token_by_token(checkpoints: tuple[Path, Path]) -> None:
    dense, mixture = (engine(directory).generate(ask_all(num=12)) for directory in checkpoints)
    assert [(one.token_ids, one.finish_reason) for one in mixture] == [
        (one.token_ids, one.finish_reason) for one in dense
    ]
    assert all(one.error is None for one in mixture)


def test_loglikelihoods_are_the_dense_models(checkpoints: tuple[Path, Path]) -> None:
    requests = [measure(completion(text, choices=CHOICES)) for text in TEXTS]
    dense, mixture = (_values(engine(directory).loglikelihoods(requests)) for directory in checkpoints)
    torch.testing.assert_close(mixture, dense, rtol=0, atol=1e-4)


def _values(found: list[Any]) -> torch.Tensor:
    return torch.tensor([one.loglikelihoods for one in found])
