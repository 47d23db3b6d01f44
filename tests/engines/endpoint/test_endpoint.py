"""The endpoint engine, against a real HTTP server that misbehaves as real ones do."""

import pickle
from typing import Any

import pytest

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.engines.base import Generation
from moe_ray.engines.endpoint import client
from moe_ray.engines.endpoint.engine import EndpointEngine
from moe_ray.engines.settings import secrets_of
from moe_ray.errors import ConfigError, EngineLostError, ModelError
from moe_ray.execution.replica import ReplicaSpec
from moe_ray.prompts.messages import Message, Prompt
from tests.engines.asking import ROOMY, ask, completion
from tests.engines.endpoint.conftest import Connect
from tests.engines.openai_api import Api, Fault, drawn, serving


def chat(text: str, **fields: Any) -> Prompt:
    return Prompt(messages=(Message(role="system", content="Be brief."), Message(role="user", content=text)), **fields)


def only(answers: list[Generation]) -> Generation:
    (answer,) = answers
    return answer


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_a_text_comes_with_its_finish_reason_its_counts_and_its_times(connect: Connect, style: str) -> None:
    prompt = completion("one two three") if style == "completion" else chat("one two three")
    answer = only(connect(style=style).generate([ask(prompt, num=4)]))
    asked = "one two three" if style == "completion" else " [system] Be brief. [user] one two three [assistant] "
    assert answer.text == "".join(drawn(asked, 4))
    assert (answer.finish_reason, answer.error) == ("length", None)
    assert (answer.num_prompt_tokens, answer.num_completion_tokens) == (len(asked.split()), 4)
    assert answer.token_ids == (), "the API does not name the tokens"
    assert answer.timing.time_to_first_token_s is not None
    assert 0 < answer.timing.time_to_first_token_s <= answer.timing.total_s


def test_the_api_is_asked_for_what_the_experiment_says(api: Api, connect: Connect) -> None:
    engine = connect(style="chat", extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    engine.generate([ask(chat("q", stop=("\n",)), num=7, temperature=0.5, top_p=0.9, seed=2**62 + 5)])
    body = api.bodies[-1]
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 5,
        "stop": ["\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_greedy_requests_name_neither_seed_nor_nucleus_and_the_limit_may_have_another_name(
    api: Api, connect: Connect
) -> None:
    connect(max_tokens_key="max_completion_tokens").generate([ask("q", num=7, seed=3)])
    assert {"seed", "top_p", "max_tokens"}.isdisjoint(api.bodies[-1])
    assert api.bodies[-1]["max_completion_tokens"] == 7


def test_more_stop_strings_than_an_api_takes_are_cut_here(api: Api, connect: Connect) -> None:
    stops = ("#", "%", "", "~", "^", " three")
    answer = only(connect().generate([ask(completion("one two three", stop=stops), num=6)]))
    assert (answer.text, answer.finish_reason) == (" one two", "stop")
    assert api.bodies[-1]["stop"] == ["#", "%", "~", "^"]


def test_answers_come_in_the_order_of_the_requests_asked_side_by_side(api: Api, connect: Connect) -> None:
    texts = [f"word{number}" for number in range(24)]
    answers = connect(max_concurrent_requests=4).generate([ask(text, num=1) for text in texts])
    assert [answer.text for answer in answers] == [f" {text}" for text in texts]
    assert 1 <= api.most_at_once <= 4
    assert {answer.timing.batch_rows for answer in answers} == {4}


@pytest.mark.parametrize(
    ("api_fields", "is_streamed", "num_tokens"),
    [
        ({}, True, 3),
        ({"knows_stream_options": False}, False, 3),
        ({"streams": False}, False, 3),
        ({"gives_usage": False}, True, 0),
    ],
    ids=["streams", "no stream options", "no streams", "no usage"],
)
def test_an_api_is_asked_in_the_best_way_that_it_knows(
    api: Api, connect: Connect, api_fields: dict[str, Any], is_streamed: bool, num_tokens: int
) -> None:
    for name, value in api_fields.items():
        setattr(api, name, value)
    answer = only(connect().generate([ask("a b", num=3)]))
    assert answer.text == " a b a"
    assert (answer.timing.time_to_first_token_s is not None) == is_streamed
    assert answer.num_completion_tokens == num_tokens


def test_streams_can_be_declined(api: Api, connect: Connect) -> None:
    answer = only(connect(stream=False).generate([ask("a b", num=3)]))
    assert (answer.text, answer.num_completion_tokens, answer.timing.time_to_first_token_s) == (" a b a", 3, None)
    assert not any("stream" in body for body in api.bodies)


BUSY = Fault(status=429, headers={"Retry-After": "0.05"}, body='{"error": {"message": "slow down"}}')
PASSING = {
    "busy": BUSY,
    "busy until a date": Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "failing": Fault(status=500),
    "unavailable": Fault(status=503, body="<html>Service Unavailable</html>"),
    "not JSON": Fault(status=200, body="{"),
    "no choices": Fault(status=200, body="{}"),
    "an error that says 200": Fault(status=200, body='{"error": {"message": "overloaded", "code": 429}}'),
    "a stream that breaks off": Fault(
        status=200, content_type="text/event-stream", body='data: {"choices": [{"text": " a"}]}\n\n'
    ),
    "a stream with an error": Fault(status=200, content_type="text/event-stream", body='data: {"error": "lost"}\n\n'),
    "silent": Fault(hangs=True),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again(api: Api, connect: Connect, name: str) -> None:
    engine = connect(timeout_s=0.2 if name == "silent" else 30)
    api.faults.extend([PASSING[name]] * 2)
    assert only(engine.generate([ask("a b", num=2)])).text == " a b"


@pytest.mark.parametrize("name", sorted(PASSING.keys() - {"failing", "busy until a date"}))
def test_what_does_not_pass_loses_the_engine_and_stores_nothing(api: Api, connect: Connect, name: str) -> None:
    engine = connect(timeout_s=0.05 if name == "silent" else 30, max_retries=2)
    api.broken = lambda body: PASSING[name]
    with pytest.raises(EngineLostError, match=r"gave no answer in 3 tries; the last: .+"):
        engine.generate([ask("a b", num=2)])


def test_an_api_that_is_gone_loses_the_engine() -> None:
    with serving(Api()) as api:
        settings = {"base_url": api.base_url, "max_retries": 2}
        engine = EndpointEngine(
            ModelConfig(path="tiny", engine="endpoint", prompt_style="completion", engine_settings=settings), ROOMY
        )
    with pytest.raises(EngineLostError, match=r"in 3 tries; the last: \w+Error"):
        engine.generate([ask("a", num=1)] * 40)
    engine.close()


def test_an_api_that_asks_for_an_hour_is_not_waited_for(api: Api, connect: Connect) -> None:
    engine = connect()
    api.broken = lambda body: Fault(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(EngineLostError, match=r"in 1 try; .*come back in 3600 s"):
        engine.generate([ask("a", num=1)])


REFUSED = {
    "malformed": (Fault(status=400, body='{"error": {"message": "bad", "code": "invalid"}}'), r"400: bad \(invalid\)"),
    "filtered": (Fault(status=403, body='{"error": {"message": "flagged"}}'), "403: flagged"),
    "always failing": (Fault(status=500), "500: .*out of order"),
    "not found": (Fault(status=404, body='{"detail": "no such route"}'), "404: no such route"),
    "an error in a stream": (
        Fault(
            status=200,
            content_type="text/event-stream",
            body='data: {"error": {"message": "unsafe", "code": 400}}\n\n',
        ),
        "400: unsafe",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_alone_is_refused_is_its_answers_own_error(api: Api, connect: Connect, name: str) -> None:
    fault, words = REFUSED[name]
    engine = connect(max_retries=1)
    api.broken = lambda body: fault if "poison" in body["prompt"] else None
    good, bad = engine.generate([ask("fine", num=1), ask("poison", num=1)])
    assert (good.text, good.error) == (" fine", None)
    assert (bad.text, bad.finish_reason) == ("", "error")
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(bad.error)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 500])
def test_an_api_that_refuses_everything_from_now_on_is_lost(api: Api, connect: Connect, status: int) -> None:
    engine = connect(max_retries=1)
    api.broken = lambda body: Fault(status=status)
    with pytest.raises(EngineLostError, match=f"{status}: out of order"):
        engine.generate([ask("a", num=1)])


def test_a_prompt_that_is_too_long_is_its_answers_error(api: Api, connect: Connect) -> None:
    api.context_length = 6
    good, bad = connect().generate([ask("a b", num=2), ask("a b c d e", num=2)])
    assert good.finish_reason == "length"
    assert "400: This model's maximum context length is 6 tokens. (context_length_exceeded)" in (bad.error or "")


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "abort"])
def test_an_answer_that_was_cut_for_another_reason_is_an_error(api: Api, connect: Connect, reason: str) -> None:
    engine = connect()
    api.finish_reason = reason
    answer = only(engine.generate([ask("a", num=2)]))
    assert (answer.text, answer.finish_reason) == ("", "error")
    assert f"for the reason '{reason}'" in (answer.error or "")


def test_requests_a_minute_are_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock that the pace itself reads: the starts that it hands out, without waiting for them."""
    pace = client._Pace(30)
    monkeypatch.setattr("moe_ray.engines.endpoint.client.time.monotonic", lambda: 100.0)
    assert [pace.next_start_s() for _ in range(4)] == [0.0, 2.0, 4.0, 6.0]
    pace.hold(60.0)
    assert [pace.next_start_s() for _ in range(2)] == [60.0, 62.0]


def test_waiting_grows_and_honours_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_DELAY_S", 0.5)
    monkeypatch.setattr(client, "LONGEST_DELAY_S", 30.0)
    for num_failed, most_s in [(1, 0.5), (2, 1.0), (5, 8.0), (50, 30.0)]:
        delays = [client._delay_s(num_failed, None) for _ in range(50)]
        assert most_s / 2 <= min(delays) < max(delays) <= most_s
    assert client._delay_s(1, 20.0) == 20.0


SECRET = "sk-secret-0123456789"


@pytest.mark.parametrize("value", [None, "", "sk-another"])
def test_a_key_that_is_missing_or_wrong_is_named_and_not_shown(
    api: Api, connect: Connect, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    api.key = SECRET
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_API_KEY", value)
    with pytest.raises(ModelError if value else ConfigError) as caught:
        connect(api_key_env="TEST_API_KEY")
    assert "api_key_env" in str(caught.value)
    assert "sk-another" not in str(caught.value), "the API repeats the key, and we do not"


def test_a_key_is_sent_and_never_shown(api: Api, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    api.key = SECRET
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    engine = connect(api_key_env="TEST_API_KEY")
    assert only(engine.generate([ask("a", num=1)])).text == " a"
    api.faults.append(Fault(status=400, body=f'{{"error": {{"message": "who is {SECRET}?"}}}}'))
    assert only(engine.generate([ask("a", num=1)])).error == "the endpoint refused this prompt: 400: who is ***?"


@pytest.mark.parametrize("style", ["completion", "chat"])
def test_a_model_that_is_not_there_is_refused_with_those_that_are(api: Api, connect: Connect, style: str) -> None:
    api.models = ["tiny", "small"]
    with pytest.raises(ModelError, match=r"404: The model `tinny` does not exist.*its models: tiny, small") as caught:
        connect(path="tinny", style=style)
    assert "the model's name (path)" in str(caught.value)


def test_an_api_that_lists_no_models_may_still_have_ours(api: Api, connect: Connect) -> None:
    api.models = None
    assert only(connect().generate([ask("a", num=1)])).text == " a"
    with pytest.raises(ModelError, match="it does not list its models"):
        connect(path="tinny")


def test_an_address_without_a_server_is_refused_at_the_start() -> None:
    settings = {"base_url": "http://127.0.0.1:9/v1", "max_retries": 1}
    with pytest.raises(ModelError, match="gave no answer in 2 tries; the last: ConnectError"):
        EndpointEngine(ModelConfig(path="tiny", engine="endpoint", engine_settings=settings), ROOMY)


def test_no_memory_is_claimed(connect: Connect) -> None:
    memory = connect().memory()
    assert (memory.device, memory.weights_bytes, memory.process_ids) == ("endpoint", None, ())


def test_a_key_travels_to_the_replica_and_shows_in_no_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"base_url": "http://one:8000/v1", "api_key_env": "TEST_API_KEY"}
    model = ModelConfig(path="tiny", engine="endpoint", engine_settings=settings)
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    assert secrets_of(model) == {}
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    assert secrets_of(model) == {"TEST_API_KEY": SECRET}
    assert secrets_of(ModelConfig(path="tiny")) == {}
    spec = ReplicaSpec(
        replica="r",
        model_name="m",
        model=model,
        decoding=DecodingConfig(),
        limits=ROOMY,
        cpu_threads=1,
        uses_gpu=False,
        environment=secrets_of(model),
    )
    assert pickle.loads(pickle.dumps(spec)).environment == {"TEST_API_KEY": SECRET}
    assert SECRET not in repr(spec) + model.model_dump_json()
