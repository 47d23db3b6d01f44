"""The draws of a row, and its text token by token."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from scipy import stats
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import TopPLogitsWarper

from moe_ray.engines.transformers.rows import NO_TOKEN, DecodeRow, DrawnRow, RowText, choose_tokens, uniforms
from moe_ray.prompts.reasoning import ReasoningSplitter
from tests.engines.asking import ask, completion
from tests.support.tiny_models import make_tokenizer

NUM_DRAWS = 20_000
PLAIN = ReasoningSplitter(styles=())
NUM_ROWS = 150


def draws(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Draw NUM_DRAWS times from one distribution; return how often each token came."""
    rows = logits.expand(NUM_DRAWS, -1)
    tokens = choose_tokens(rows, [temperature] * NUM_DRAWS, [top_p] * NUM_DRAWS, uniforms(3, NUM_DRAWS))
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.3, 0.9), (1.0, 0.5), (1.0, 0.01)])
def test_draws_follow_the_warped_distribution(temperature: float, top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(0)) * 1.5
    warped = TopPLogitsWarper(top_p)(torch.zeros(1, 0, dtype=torch.long), (logits / temperature)[None])[0]
    expected = warped.double().softmax(-1)
    counts = draws(logits, temperature, top_p)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    if kept.sum() > 1:
        assert stats.chisquare(counts[kept].numpy(), (expected[kept] * NUM_DRAWS).numpy()).pvalue > 1e-3


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 1.0, 2.0]])
    assert choose_tokens(logits, [0.0, 0.0], [1.0, 1.0], [0.9, 0.9]) == [1, 0]


def test_a_very_low_temperature_takes_the_likeliest() -> None:
    assert choose_tokens(torch.tensor([[0.0, 3.0, 1.0]]), [1e-4], [1.0], [0.999999]) == [1]


def test_the_largest_uniform_number_still_draws_a_token() -> None:
    logits = torch.full((1, 7), 0.1)
    assert choose_tokens(logits, [1.0], [1.0], [1 - 2**-53])[0] in range(7)


def test_a_row_that_is_not_numbers_gets_no_token() -> None:
    logits = torch.tensor([[0.0, float("nan")], [0.0, 1.0]])
    assert choose_tokens(logits, [1.0, 0.0], [1.0, 1.0], [0.5, 0.5]) == [NO_TOKEN, 1]


def test_uniforms_follow_from_the_seed() -> None:
    assert uniforms(5, 4) == uniforms(5, 4)
    assert uniforms(5, 4) != uniforms(6, 4)
    assert all(0 <= one < 1 for one in uniforms(2**63 - 1, 1000))


def byte_fallback_tokenizer() -> Any:
    """A tokenizer as Llama 2's: words begin with a mark for a space, and unknown characters fall back to bytes."""
    words = ["▁", "▁the", "▁law", "law", "s", "▁▁", "é", "."]
    vocabulary = {
        token: at for at, token in enumerate(["<s>", "</s>", *(f"<0x{at:02X}>" for at in range(256)), *words])
    }
    core = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("make", [make_tokenizer, byte_fallback_tokenizer])
def test_pieces_of_any_tokens_add_up_to_the_whole_text(make: Callable[[], Any]) -> None:
    tokenizer = make()
    spelled = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("é", "€", "😀", " the", "law")]
    for seed in range(NUM_ROWS):
        draw = random.Random(seed)
        tokens: list[int] = []
        while len(tokens) < 20:
            whole = draw.random() < 0.6
            tokens += draw.choice(spelled) if whole else [draw.randrange(len(tokenizer))]
        assert_adds_up(tokenizer, tokens, stops=("aw", "é."))


def assert_adds_up(tokenizer: Any, tokens: list[int], stops: tuple[str, ...]) -> None:
    request = ask(completion("q", stop=stops), num=len(tokens))
    row = DrawnRow(
        row=DecodeRow(index=0, token_ids=(0,), num_truncated=0, request=request),
        tokenizer=tokenizer,
        end_token_ids=frozenset(),
        special_token_ids=frozenset(tokenizer.all_special_ids),
        mark_token_ids=frozenset(),
        uniforms=[],
    )
    text = RowText(row, PLAIN)
    pieces = []
    for token in tokens:
        row.take(token, 0.0)
        if row.finish_reason is not None:
            break
        pieces.append(text.grown().answer)
    pieces.append(text.finished().answer)
    whole = tokenizer.decode(row.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert "".join(pieces) == whole[: min(ends, default=len(whole))], tokens


def test_text_is_handed_out_with_the_token_that_completes_it() -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer("law €", add_special_tokens=False)["input_ids"]
    row = SimpleNamespace(
        row=SimpleNamespace(request=ask("q"), opens_trace=False),
        token_ids=[],
        tokenizer=tokenizer,
        decoded=lambda some: tokenizer.decode(some, clean_up_tokenization_spaces=False),
    )
    text = RowText(row, PLAIN)  # type: ignore[arg-type]
    pieces = []
    for token in tokens:
        row.token_ids.append(token)
        pieces.append(text.grown().answer)
    assert pieces == ["law", " ", "", "", "€"]
