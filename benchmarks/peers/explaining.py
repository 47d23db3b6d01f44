"""Why two greedy texts part: how far apart the two tokens were for the model itself, at the place where they part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.comparing import Difference
from moe_ray.store.answers import Answer

# Batches of other shapes add the same numbers in another order: that moves a float32 logit by about this much.
ROUNDING_LOGITS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`gap_logits` is ours minus theirs, read without any padding; None where that does not apply."""

    difference: Difference
    gap_logits: float | None
    words: str

    @property
    def is_rounding(self) -> bool:
        return self.gap_logits is not None and abs(self.gap_logits) <= ROUNDING_LOGITS


class Explainer:
    """Holds one model, loaded plainly, to ask about single positions."""

    def __init__(self, checkpoint: Path) -> None:
        import transformers

        self._tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").eval()

    def explain(self, difference: Difference, prompt: str, ours: Answer) -> Explanation:
        """Say why the answers to `prompt`, as the model was given it, part."""
        mine, other = difference.tokens
        if mine is None and other is not None:
            mine = self._tokenizer.eos_token_id
        if mine is None or other is None or difference.kind == "text":
            return Explanation(difference=difference, gap_logits=None, words="not a matter of one token")
        tokens = [*self._prompt_tokens(prompt), *(ours.token_ids or [])[: difference.position]]
        logits_V = self._last_logits(tokens)  # noqa: N806 - vocabulary
        gap = float(logits_V[mine] - logits_V[other])
        words = f"token {mine} or {other} at place {difference.position}, {gap:+.1e} logits apart"
        return Explanation(difference=difference, gap_logits=gap, words=words)

    def _prompt_tokens(self, prompt: str) -> list[int]:
        """Encode as both sides do: special tokens, unless the text begins with the begin token already."""
        begins = bool(self._tokenizer.bos_token) and prompt.startswith(self._tokenizer.bos_token)
        tokens: list[int] = self._tokenizer(prompt, add_special_tokens=not begins)["input_ids"]
        return tokens

    def _last_logits(self, tokens: list[int]) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(torch.tensor([tokens])).logits[0, -1]
