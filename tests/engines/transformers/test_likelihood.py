"""Log-likelihoods against a slow oracle that reads one row, token by token."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from moe_ray.engines.base import BatchLimits
from moe_ray.prompts.messages import Prompt
from tests.engines.asking import TEXTS, completion, engine, measure
from tests.support.tiny_models import Architecture

Checkpoints = Callable[[Architecture], Path]
CHOICES = (" yes", " no", " maybe", " the question is maybe")
REFERENCE = " the answer of the court, in 3 words"


def prompts() -> list[Prompt]:
    return [completion(text, choices=CHOICES, reference=REFERENCE) for text in TEXTS]


def oracle(directory: Path, context: str, continuation: str) -> tuple[float, int]:
    """Read the context alone, then one continuation token after the other, each with a forward pass of its own."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    stripped = context.rstrip()
    read = tokenizer(stripped)["input_ids"]
    following = tokenizer(context + continuation)["input_ids"][len(read) :]
    total = 0.0
    for token in following:
        with torch.no_grad():
            logits = model(torch.tensor([read])).logits[0, -1].double()
        total += float(logits[token] - logits.logsumexp(-1))
        read = [*read, token]
    return total, len(following)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "phi3", "gpt2", "gemma2", "gemma3"])
def test_loglikelihoods_are_those_of_the_slow_oracle(architecture: Architecture, checkpoint: Checkpoints) -> None:
    directory = checkpoint(architecture)
    answers = engine(directory).loglikelihoods([measure(one, str(n)) for n, one in enumerate(prompts())])
    for text, answer in zip(TEXTS, answers, strict=True):
        expected = [oracle(directory, text, one) for one in (*CHOICES, REFERENCE)]
        assert answer.loglikelihoods == pytest.approx([value for value, _ in expected], abs=1e-4)
        assert list(answer.num_tokens) == [num for _, num in expected]


def test_a_reading_with_other_positions_does_not_stand_in_for_a_short_one(checkpoint: Checkpoints) -> None:
    """Beyond a quarter of its context this model stretches positions, so that each continuation is read by itself."""
    directory = checkpoint("phi3_longrope")
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    answers = engine(directory).loglikelihoods([measure(one, str(n)) for n, one in enumerate(prompts())])
    for text, answer in zip(TEXTS, answers, strict=True):
        num_read = len(tokenizer(text)["input_ids"])
        for continuation, measured in zip((*CHOICES, REFERENCE), answer.loglikelihoods, strict=True):
            tokens = tokenizer(text + continuation, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(tokens[:, :-1]).logits[0].double().log_softmax(-1)
            expected = logits.gather(-1, tokens[0, 1:, None])[num_read - 1 :].sum()
            assert measured == pytest.approx(float(expected), abs=1e-4)


def test_white_space_at_the_contexts_end_belongs_to_the_continuation(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    spaced = loaded.loglikelihoods([measure(completion("the answer is ", choices=("yes",)))])[0]
    plain = loaded.loglikelihoods([measure(completion("the answer is", choices=(" yes",)))])[0]
    assert spaced.loglikelihoods == plain.loglikelihoods
    assert spaced.num_prompt_tokens == plain.num_prompt_tokens


def test_an_empty_context_is_read_from_the_begin_token(checkpoint: Checkpoints) -> None:
    answer = engine(checkpoint("llama")).loglikelihoods([measure(completion("", choices=(" yes", " no")))])[0]
    expected = [oracle(checkpoint("llama"), "", one)[0] for one in (" yes", " no")]
    assert answer.loglikelihoods == pytest.approx(expected, abs=1e-4)


def test_all_one_token_continuations_sum_to_one(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))
    letters = tuple(chr(code) for code in range(33, 127))
    answer = loaded.loglikelihoods([measure(completion("a#", choices=letters))])[0]
    assert set(answer.num_tokens) == {1}
    assert answer.timing.batch_rows == 1, "continuations of one token share one reading"
    assert 0 < sum(math.exp(value) for value in answer.loglikelihoods if value is not None) < 1


@pytest.mark.parametrize("limits", [BatchLimits(max_rows=2, cache_memory_bytes=1 << 30),
                                    BatchLimits(max_rows=99, cache_memory_bytes=1)])  # fmt: skip
def test_batch_limits_do_not_change_loglikelihoods(checkpoint: Checkpoints, limits: BatchLimits) -> None:
    requests = [measure(one, str(n)) for n, one in enumerate(prompts())]
    roomy = engine(checkpoint("gpt2")).loglikelihoods(requests)
    tight = engine(checkpoint("gpt2"), limits).loglikelihoods(requests)
    for one, other in zip(roomy, tight, strict=True):
        assert one.loglikelihoods == pytest.approx(other.loglikelihoods, abs=1e-4)
        assert other.timing.batch_rows <= 2


def test_repeated_measurements_are_equal_to_the_last_bit_in_any_order(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("mistral"), BatchLimits(max_rows=3, cache_memory_bytes=1 << 30))
    requests = [measure(one, str(n)) for n, one in enumerate(prompts())]
    first = [one.loglikelihoods for one in loaded.loglikelihoods(requests)]
    assert [one.loglikelihoods for one in loaded.loglikelihoods(requests[::-1])] == first[::-1]


def test_a_continuation_that_overflows_the_context_is_an_error_with_both_numbers(checkpoint: Checkpoints) -> None:
    long = completion("a" * 100, choices=("b" * 30,))
    fits = completion("a" * 100, choices=("b" * 28,))
    bad, good = engine(checkpoint("llama")).loglikelihoods([measure(long), measure(fits)])
    assert bad.error == "the prompt has 101 tokens and 29 may follow, but the context holds 128"
    assert bad.loglikelihoods == ()
    assert good.error is None


def test_an_overlong_context_is_cut_from_the_left_when_asked(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"), overflow="truncate_left")
    answer = loaded.loglikelihoods([measure(completion("#" * 300, choices=(" yes",), reference="####"))])[0]
    assert answer.error is None
    assert answer.num_prompt_tokens == 128 - 3


def test_a_continuation_without_tokens_is_an_error(checkpoint: Checkpoints) -> None:
    answer = engine(checkpoint("llama")).loglikelihoods([measure(completion("the", choices=("",)))])[0]
    assert "no tokens" in (answer.error or "")


def test_a_prompt_without_continuations_is_an_error(checkpoint: Checkpoints) -> None:
    answer = engine(checkpoint("llama")).loglikelihoods([measure(completion("the"))])[0]
    assert "no continuations" in (answer.error or "")


def test_a_row_that_never_fits_is_an_error_and_others_go_on(checkpoint: Checkpoints) -> None:
    loaded = engine(checkpoint("llama"))

    def refuse(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["input_ids"].shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loaded._loaded.model.register_forward_pre_hook(refuse, with_kwargs=True)
    long = completion("a#" * 40, choices=(" yes",))
    bad, good = loaded.loglikelihoods([measure(long, "long"), measure(prompts()[0], "short")])
    assert "out of memory" in (bad.error or "")
    assert good.error is None


def test_chat_continuations_follow_the_rendered_template(checkpoint: Checkpoints) -> None:
    directory = checkpoint("qwen2")
    answer = engine(directory, prompt_style="chat").loglikelihoods(
        [measure(completion("is the drug", choices=("yes", "no")))]
    )[0]
    # The template writes <s> itself; the oracle's tokenizer adds it, so it is left out of the oracle's text.
    expected = [oracle(directory, "[user] is the drug\n[assistant]\n", one) for one in ("yes", "no")]
    assert answer.loglikelihoods == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_a_reference_that_does_not_fit_costs_no_choice(checkpoint: Checkpoints) -> None:
    """The context holds the prompt and the choices; the reference alone is longer than it."""
    model = engine(checkpoint("llama"))
    (both,) = model.loglikelihoods([measure(completion("is it?", choices=CHOICES, reference="#" * 300), "1")])
    (alone,) = model.loglikelihoods([measure(completion("is it?", choices=CHOICES), "1")])
    assert both.error is None
    assert both.loglikelihoods == (*alone.loglikelihoods, None)


def test_a_context_is_cut_from_the_left_only_as_far_as_what_fits_needs(checkpoint: Checkpoints) -> None:
    model = engine(checkpoint("llama"), overflow="truncate_left")
    (whole,) = model.loglikelihoods([measure(completion("#" * 200, choices=CHOICES, reference="#" * 300), "1")])
    (alone,) = model.loglikelihoods([measure(completion("#" * 200, choices=CHOICES), "1")])
    assert whole.num_truncated_tokens == alone.num_truncated_tokens > 0
    assert whole.loglikelihoods == (*alone.loglikelihoods, None)
