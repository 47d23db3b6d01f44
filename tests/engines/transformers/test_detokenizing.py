"""Text of growing rows: the pieces of any tokens add up to what decoding all of them at once gives."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from moe_ray.engines.transformers.detokenizing import RowText
from moe_ray.engines.transformers.generation import DecodeRow, DrawnRow
from moe_ray.prompts.reasoning import ReasoningSplitter
from tests.engines.asking import ask, completion
from tests.support.tiny_models import make_tokenizer

PLAIN = ReasoningSplitter(styles=())
NUM_ROWS = 150


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
