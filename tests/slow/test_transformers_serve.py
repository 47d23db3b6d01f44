"""A server that others wrote, `transformers serve`, behind the server engine: the text of the transformers engine."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from transformers.utils.import_utils import is_serve_available

from moe_ray.config.schema import ModelConfig, PromptStyle
from moe_ray.engines.endpoint.engine import EndpointEngine
from moe_ray.engines.server.engine import ServerEngine
from moe_ray.engines.transformers.engine import TransformersEngine
from moe_ray.prompts.messages import Message, Prompt
from tests.engines.asking import ROOMY, TEXTS, ask, completion, measure
from tests.support.tiny_models import make_tiny_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]")]

COMMAND = "transformers serve {path} --host {host} --port {port} --device cpu --dtype {dtype}"


CUT_OFF = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[ServerEngine]:
    """One server for all tests; what it is asked is the client's choice."""
    settings = {"command": COMMAND, "log_dir": str(folder / "logs"), "env": {"CUDA_VISIBLE_DEVICES": ""}}
    engine = ServerEngine(
        ModelConfig(path=str(folder), dtype="float32", engine="server", engine_settings=settings), ROOMY
    )
    yield engine
    pids = engine.memory().process_ids
    assert pids
    engine.close()
    assert not any(map(psutil.pid_exists, pids))


def endpoint(served: ServerEngine, folder: Path, style: PromptStyle, *, stream: bool) -> EndpointEngine:
    settings = {"base_url": served._client.base_url, "stream": stream}
    model = ModelConfig(path=str(folder), prompt_style=style, engine="endpoint", engine_settings=settings)
    return EndpointEngine(model, ROOMY)


@pytest.mark.parametrize("style", ["completion", "chat"])
@pytest.mark.parametrize("stream", [True, False])
def test_greedy_text_is_that_of_the_transformers_engine(
    served: ServerEngine, folder: Path, style: PromptStyle, stream: bool
) -> None:
    """Its streams hold back the bytes of a character that is not whole at the end; a random model ends so at times."""
    own = TransformersEngine(ModelConfig(path=str(folder), prompt_style=style, dtype="float32"), ROOMY)
    requests = [ask(text, id=str(place), num=16) for place, text in enumerate(TEXTS)]
    requests.append(ask(completion(TEXTS[0], stop=("e",)), id="stop", num=16))
    over_http = endpoint(served, folder, style, stream=stream)
    for mine, theirs in zip(own.generate(requests), over_http.generate(requests), strict=True):
        assert theirs.error is None
        assert theirs.text.rstrip(CUT_OFF) == (mine.text.rstrip(CUT_OFF))
        assert stream or theirs.text == mine.text
        assert theirs.finish_reason == mine.finish_reason
        assert theirs.num_prompt_tokens == mine.num_prompt_tokens
        assert (theirs.timing.time_to_first_token_s is not None) == stream
    over_http.close()


def test_it_gives_no_prompt_likelihoods_and_says_so(served: ServerEngine) -> None:
    prompt = Prompt(messages=(Message(role="user", content="the drug"),), choices=(" yes", " no"))
    (answer,) = served.loglikelihoods([measure(prompt)])
    assert answer.error == "the endpoint gives no prompt log-probabilities"
