"""lm-evaluation-harness asks the served system, and gets the scores and texts that the model gives without a server.

It is no dependency: without lm_eval these tests are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.transformers.engine import TransformersEngine
from tests.engines.asking import ROOMY, ask, completion
from tests.execution.experiments import scripted
from tests.support.served import Endpoint, endpoint_of, write_served
from tests.support.tiny_models import make_tiny_checkpoint

pytest.importorskip("lm_eval")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PAIRS = [("the drug is", " yes"), ("the drug is", " no"), ("a court of law", " is it"), ("def sum", " return a")]
TEXTS = ["the drug is", "a question of law", "def sum(list):"]
NUM_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Scene:
    endpoint: Endpoint
    folder: Path
    model: Any


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("served")
    path = make_tiny_checkpoint(folder / "llama", "llama")
    models: dict[str, dict[str, Any]] = {
        "baseline": {"path": str(path), "dtype": "float32"},
        "legal-expert": {**scripted(), "path": "scripted/legal"},
    }
    with endpoint_of(write_served(folder, models, router=None)) as endpoint:
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=False)
        yield Scene(endpoint=endpoint, folder=path, model=model)


@pytest.fixture
def completions(scene: Scene) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        model="baseline",
        base_url=f"{scene.endpoint.url}/v1/completions",
        tokenizer_backend="remote",
        max_retries=1,
        batch_size=2,
        max_length=128,
    )


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=one, idx=place) for place, one in enumerate(arguments)]


def scored(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """Sum of the continuation's log-probabilities, and whether each token was the likeliest."""
    ids = torch.tensor([context + continuation])
    with torch.inference_mode():
        logprobs = model(ids).logits[0].log_softmax(-1)[len(context) - 1 : -1]
    wanted = torch.tensor(continuation)
    return float(logprobs.gather(1, wanted[:, None]).sum()), bool((logprobs.argmax(-1) == wanted).all())


def test_loglikelihoods_are_those_of_the_model(scene: Scene, completions: Any) -> None:
    found = completions.loglikelihood(instances("loglikelihood", list(PAIRS)), disable_tqdm=True)
    for (context, continuation), (loglikelihood, is_greedy) in zip(PAIRS, found, strict=True):
        expected = scored(scene.model, *completions._encode_pair(context, continuation))
        assert loglikelihood == pytest.approx(expected[0], abs=1e-4)
        assert is_greedy == expected[1]


def test_a_greedy_continuation_is_recognised(scene: Scene, completions: Any) -> None:
    (text,) = completions.generate_until(
        instances("generate_until", [(TEXTS[0], {"until": ["\n"], "max_gen_toks": 3, "temperature": 0})]),
        disable_tqdm=True,
    )
    ((_, is_greedy),) = completions.loglikelihood(instances("loglikelihood", [(TEXTS[0], text)]), disable_tqdm=True)
    expected = scored(scene.model, *completions._encode_pair(TEXTS[0], text))
    assert is_greedy == expected[1]


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_texts_are_those_of_the_engine_without_a_server(scene: Scene, completions: Any, style: Any) -> None:
    settings = {"until": ["\n"], "max_gen_toks": NUM_TOKENS, "temperature": 0}
    if style == "chat":
        from lm_eval.models.openai_completions import LocalChatCompletion

        lm = LocalChatCompletion(model="baseline", base_url=f"{scene.endpoint.url}/v1/chat/completions", max_retries=1)
        turns = [[{"role": "user", "content": text}] for text in TEXTS]
        asked = [(lm.apply_chat_template(turn), dict(settings)) for turn in turns]
    else:
        lm = completions
        asked = [(text, dict(settings)) for text in TEXTS]
    found = lm.generate_until(instances("generate_until", asked), disable_tqdm=True)
    engine = TransformersEngine(ModelConfig(path=str(scene.folder), dtype="float32", prompt_style=style), ROOMY)
    prompts = [completion(text, stop=("\n",)) for text in TEXTS]
    own = engine.generate([ask(prompt, id=str(place), num=NUM_TOKENS) for place, prompt in enumerate(prompts)])
    if style == "completion":  # the harness sends its own tokens, without the begin token
        ids = [tuple(completions.tok_encode(text)) for text in TEXTS]
        own = engine.generate(
            [
                ask(completion("", stop=("\n",), style="completion", token_ids=given), id=str(place), num=NUM_TOKENS)
                for place, given in enumerate(ids)
            ]
        )
    assert found == [one.text for one in own]
