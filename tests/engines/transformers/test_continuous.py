"""Continuous batching against the engine's own loop: the same text, ends and errors, and the same again at any time."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits, GenerateRequest, Generation
from moe_ray.engines.registry import text_settings
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.continuous import choose_continuous
from moe_ray.engines.transformers.loading import load
from moe_ray.errors import ModelError
from tests.engines.asking import ONE_ROW, ROOMY, TEXTS, ask, ask_all, completion, engine, measure
from tests.engines.transformers.checkpoints import ARCHITECTURES, with_end_tokens
from tests.support.tiny_models import Architecture, make_tokenizer

Checkpoints = Callable[[Architecture], Path]
PAGED: tuple[Architecture, ...] = tuple(name for name in ARCHITECTURES if name != "gemma2")
THREE_ROWS = BatchLimits(max_rows=3, cache_memory_bytes=1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """Stop each end of a batch, which collects garbage, from walking through all that the session has imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def continuous(directory: Path, limits: BatchLimits = ROOMY, **settings: Any) -> Any:
    return engine(directory, limits, engine_settings={"batching": "continuous", **settings}, gpus=0)


def static(directory: Path, limits: BatchLimits = ROOMY, **settings: Any) -> Any:
    return engine(directory, limits, engine_settings={"batching": "static", **settings}, gpus=0)


def content(generations: list[Generation]) -> list[tuple[object, ...]]:
    """Return what must be equal: everything but the times and the rows beside."""
    return [
        (one.text, one.token_ids, one.finish_reason, one.num_prompt_tokens, one.num_truncated_tokens, one.error)
        for one in generations
    ]


def uneven() -> list[GenerateRequest]:
    """Three rounds of the texts, each request with another length."""
    return [
        ask(text, id=f"{number}-{index}", num=3 + 7 * number + index)
        for number in range(3)
        for index, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("architecture", PAGED)
@pytest.mark.parametrize("limits", [ROOMY, THREE_ROWS], ids=["all at once", "three at once"])
def test_greedy_answers_are_those_of_the_own_loop(
    architecture: Architecture, limits: BatchLimits, checkpoint: Checkpoints, tmp_path: Path
) -> None:
    plain = checkpoint(architecture)
    said = static(plain).generate(ask_all(num=24))
    eos = [1, said[0].token_ids[5], said[1].token_ids[11], said[3].token_ids[2]]
    directory = with_end_tokens(plain, tmp_path / "ended", eos)
    expected = content(static(directory).generate(uneven()))
    assert content(continuous(directory, limits).generate(uneven())) == expected
    assert {one[2] for one in expected} == {"stop", "length"}


def test_eager_attention_has_a_paged_form_too(checkpoint: Checkpoints) -> None:
    loaded = continuous(checkpoint("llama"), attention="eager")
    assert content(loaded.generate(uneven())) == content(static(checkpoint("llama")).generate(uneven()))


def test_rows_that_spell_a_stop_string_end_there_and_leave_their_place(checkpoint: Checkpoints) -> None:
    plain = static(checkpoint("llama")).generate(ask_all(num=60))
    requests = [
        replace(request, prompt=replace(request.prompt, stop=(said.text[6:9], "never said")))
        for request, said in zip(ask_all(num=60), plain, strict=True)
    ]
    expected = static(checkpoint("llama")).generate(requests)
    loaded = continuous(checkpoint("llama"), BatchLimits(max_rows=2, cache_memory_bytes=1 << 30))
    answers = loaded.generate(requests)
    assert content(answers) == content(expected)
    assert {one.finish_reason for one in answers} == {"stop"}
    num_steps = loaded._loaded.model._cached_continuous_batching_manager.current_batch
    assert num_steps < sum(len(one.token_ids) for one in plain) / 2 / 3


def test_a_stop_string_that_is_a_token_of_its_own_ends_the_row(checkpoint: Checkpoints) -> None:
    prompts = [completion(text, stop=("</s>", "<pad>")) for text in TEXTS]
    requests = [ask(prompt, id=str(index), num=40) for index, prompt in enumerate(prompts)]
    assert content(continuous(checkpoint("gpt2")).generate(requests)) == content(
        static(checkpoint("gpt2")).generate(requests)
    )


def recorded_steps(loaded: Any) -> list[tuple[int, ...]]:
    """Return a list that grows by the tokens of each step that the model runs, in their order."""
    seen: list[tuple[int, ...]] = []
    loaded._loaded.model.register_forward_pre_hook(
        lambda _model, _args, inputs: seen.append(tuple(inputs["input_ids"].flatten().tolist())), with_kwargs=True
    )
    return seen


def test_a_shard_goes_through_the_same_steps_in_any_order_and_after_other_shards(checkpoint: Checkpoints) -> None:
    said = static(checkpoint("qwen2")).generate(uneven())
    requests = [
        replace(one, prompt=replace(one.prompt, stop=(text.text[4:6],)))
        for one, text in zip(uneven(), said, strict=True)
    ]
    fresh, used = (continuous(checkpoint("qwen2"), THREE_ROWS) for _ in range(2))
    used.generate([ask(text + text, id=text, num=30) for text in TEXTS])
    steps, later_steps = recorded_steps(fresh), recorded_steps(used)
    first = content(fresh.generate(requests))
    num_steps = len(steps)
    assert content(fresh.generate(requests[::-1])[::-1]) == first
    assert steps[:num_steps] == steps[num_steps:]
    assert content(used.generate(requests)) == first
    assert later_steps == steps[:num_steps]
    assert len({len(step) for step in steps}) > 2, "rows must come and go"


def test_the_cache_keeps_to_the_limit_and_holds_one_row_at_least(checkpoint: Checkpoints) -> None:
    expected = content(static(checkpoint("llama")).generate(uneven()))
    row_bytes = 256 * 2 * 2 * 2 * 8 * 4  # tokens of a page x layers x (keys, values) x heads x head size x float32
    sizes = []
    for num_rows in (100, 6, 1):
        loaded = continuous(checkpoint("llama"), BatchLimits(max_rows=8, cache_memory_bytes=num_rows * row_bytes))
        steps = recorded_steps(loaded)
        assert content(loaded.generate(uneven())) == expected
        cache = loaded._loaded.model._cached_continuous_batching_manager.batch_processor.cache
        sizes.append((cache.cache_tensor.nbytes // row_bytes, min(len(step) for step in steps[-8:])))
        assert cache.cache_tensor.nbytes <= max(num_rows, 1 + 3) * row_bytes
    assert sizes[0][0] > sizes[1][0] > sizes[2][0]


def test_a_row_without_numbers_is_an_error_of_its_own(checkpoint: Checkpoints) -> None:
    answers = []
    for make in (static, continuous):
        loaded = make(checkpoint("llama"))
        poisoned = loaded._loaded.tokenizer("contract")["input_ids"][-1]
        with torch.no_grad():
            loaded._loaded.model.get_input_embeddings().weight[poisoned] = float("nan")
        answers.append(content(loaded.generate(ask_all(num=6))))
    assert answers[0] == answers[1]
    assert {one[2] for one in answers[1]} == {"length", "error"}


def fail_in(loaded: Any, error: Callable[[], Exception], fails: Callable[[int], bool]) -> Any:
    """Have each forward pass raise `error` where `fails` says so of the number of rows that draw a token."""

    def hook(_model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        if fails(int(inputs["logits_indices"].numel())):
            raise error()

    return loaded._loaded.model.register_forward_pre_hook(hook, with_kwargs=True)


def test_out_of_memory_halves_the_rows_until_they_fit(checkpoint: Checkpoints) -> None:
    expected = content(static(checkpoint("llama")).generate(ask_all()))
    loaded = continuous(checkpoint("llama"))
    hook = fail_in(loaded, lambda: torch.OutOfMemoryError("CUDA out of memory."), lambda num_rows: num_rows > 2)
    answers = loaded.generate(ask_all())
    assert content(answers) == expected
    assert {one.timing.batch_rows for one in answers} == {1, 2}
    hook.remove()
    assert {one.timing.batch_rows for one in loaded.generate(ask_all())} == {len(TEXTS)}


def test_a_row_that_never_fits_is_refused_and_its_cache_is_given_back(checkpoint: Checkpoints) -> None:
    loaded = continuous(checkpoint("llama"))
    fail_in(loaded, lambda: torch.OutOfMemoryError("CUDA out of memory."), lambda _: True)
    caches: list[weakref.ref[Any]] = []
    loaded._loaded.model.register_forward_pre_hook(
        lambda _model, _args, inputs: caches.append(weakref.ref(inputs["cache"])), with_kwargs=True, prepend=True
    )
    answers = loaded.generate(ask_all()[:2])
    assert all("out of memory with one row" in (one.error or "") for one in answers)
    gc.collect()
    assert len(caches) == 3
    assert not any(cache() for cache in caches)


def test_another_failure_names_the_way_out_and_leaves_the_engine_usable(checkpoint: Checkpoints) -> None:
    loaded = continuous(checkpoint("llama"))
    hook = fail_in(loaded, lambda: ValueError("no such kernel"), lambda _: True)
    with pytest.raises(RuntimeError, match=r"batching: static avoids it.*no such kernel"):
        loaded.generate(ask_all())
    hook.remove()
    assert content(loaded.generate(ask_all())) == content(static(checkpoint("llama")).generate(ask_all()))


@pytest.mark.parametrize("architecture", ["gemma2", "phi3_longrope"])
def test_models_that_would_answer_otherwise_are_refused(architecture: Architecture, checkpoint: Checkpoints) -> None:
    with pytest.raises(ModelError, match="batching continuous: ") as caught:
        continuous(checkpoint(architecture))
    assert "engine_settings.batching" in (caught.value.remedy or "")
    automatic = engine(checkpoint(architecture), gpus=0)
    assert automatic.memory().batching == "static"


def test_an_architecture_that_hands_no_cache_down_is_refused(tmp_path: Path) -> None:
    """GPT-Neo runs over the paged cache without an error, and says something else."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    config = transformers.GPTNeoConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=128,
        attention_types=[[["global", "local"], 1]], bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="GPTNeoForCausalLM does not take a paged cache"):
        continuous(tmp_path)


def test_rows_above_temperature_zero_keep_their_seeds_and_batches(checkpoint: Checkpoints) -> None:
    drawn = [ask(text, id=f"d{index}", temperature=0.9, seed=index) for index, text in enumerate(TEXTS)]
    mixed = [request for pair in zip(ask_all(), drawn, strict=True) for request in pair]
    answers = continuous(checkpoint("llama")).generate(mixed)
    assert content(answers[1::2]) == content(static(checkpoint("llama")).generate(drawn))
    assert content(answers[::2]) == content(static(checkpoint("llama")).generate(ask_all()))


def test_the_checkpoints_own_decoding_settings_do_not_count(checkpoint: Checkpoints, tmp_path: Path) -> None:
    settings = {"repetition_penalty": 5.0, "do_sample": True, "temperature": 3.0, "forced_bos_token_id": 7}
    directory = with_end_tokens(checkpoint("llama"), tmp_path / "set", [1], **settings)
    assert content(continuous(directory).generate(ask_all())) == content(static(directory).generate(ask_all()))


def test_nothing_of_the_batching_stays_behind(checkpoint: Checkpoints) -> None:
    loaded = continuous(checkpoint("llama"), attention="eager")
    pair = [measure(completion("the law is", choices=(" yes", " no")))]
    before, num_threads = loaded.loglikelihoods(pair)[0].loglikelihoods, threading.active_count()
    loaded.generate(ask_all())
    assert loaded._loaded.model.config._attn_implementation == "eager"
    assert loaded.loglikelihoods(pair)[0].loglikelihoods == before
    assert threading.active_count() == num_threads


def test_rows_that_wait_for_a_place_have_later_times(checkpoint: Checkpoints) -> None:
    answers = continuous(checkpoint("llama"), ONE_ROW).generate(ask_all())
    longest_first = sorted(answers, key=lambda one: -one.num_prompt_tokens)
    for one, following in pairwise(longest_first):
        assert one.timing.time_to_first_token_s is not None
        assert following.timing.time_to_first_token_s is not None
        assert one.timing.time_to_first_token_s < one.timing.total_s < following.timing.time_to_first_token_s
    assert {one.timing.batch_rows for one in answers} == {1}


def test_how_rows_were_batched_is_reported(checkpoint: Checkpoints) -> None:
    assert continuous(checkpoint("llama")).memory().batching == "continuous, sdpa"
    assert continuous(checkpoint("llama"), attention="eager").memory().batching == "continuous, paged|eager"
    assert static(checkpoint("llama")).memory().batching == "static"
    assert engine(checkpoint("llama"), gpus=0).memory().batching == "static"


def test_batching_is_no_identity(checkpoint: Checkpoints, tmp_path: Path) -> None:
    assert text_settings("transformers", {"batching": "continuous", "attention": "sdpa"}) == {"attention": "sdpa"}
    settings: list[dict[str, Any]] = [{}, {"batching": "static"}, {"batching": "continuous"}]
    models = [ModelConfig(path=str(checkpoint("llama")), engine_settings=one) for one in settings]
    hashes = FileHashes(tmp_path / "hashes.cache")
    assert len({inspect_checkpoint("m", model, hashes).identity.fingerprint for model in models}) == 1


@pytest.mark.parametrize(
    ("device", "dtype", "has_flash", "settings", "expected"),
    [
        ("cuda", torch.bfloat16, True, {}, "flash_attention_2"),
        ("cuda", torch.bfloat16, True, {"batching": "static"}, None),
        ("cuda", torch.bfloat16, True, {"attention": "sdpa"}, None),
        ("cuda", torch.bfloat16, False, {}, None),
        ("cuda", torch.bfloat16, False, {"batching": "continuous"}, "sdpa"),
        ("cuda", torch.float32, True, {}, None),
        ("cpu", torch.bfloat16, True, {}, None),
        ("cpu", torch.bfloat16, True, {"batching": "continuous"}, "sdpa"),
    ],
)
def test_auto_is_continuous_on_a_gpu_with_flash_attention_alone(
    device: str,
    dtype: torch.dtype,
    has_flash: bool,
    settings: dict[str, Any],
    expected: str | None,
    checkpoint: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The choice alone, on a loaded model that is said to be elsewhere."""
    monkeypatch.setattr("moe_ray.engines.transformers.continuous.is_flash_attn_2_available", lambda: has_flash)
    monkeypatch.setattr("moe_ray.engines.transformers.continuous.is_flash_attn_3_available", lambda: False)
    config = ModelConfig(path=str(checkpoint("llama")), dtype=str(dtype).removeprefix("torch."), gpus=0)
    wanted = TransformersSettings(**settings)
    loaded = replace(load(config, wanted), device=torch.device(device))
    chosen = choose_continuous(config, wanted, loaded, ROOMY)
    assert (chosen.attention if chosen else None) == expected
