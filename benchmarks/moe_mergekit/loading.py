"""Load a dense model and a mixture of it with transformers alone, and print how they differ, as a line of JSON.

python -m benchmarks.moe_mergekit.loading DENSE MIXTURE
"""

import json
import sys
from typing import Any

import torch
import transformers

NUM_TOKENS = 64
SHAPE = (2, NUM_TOKENS)


def main(dense: str, mixture: str) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    expected, _ = _logits(dense)
    try:
        found, num_unmatched = _logits(mixture)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]}))
        return
    difference = (found - expected).abs().max().item()
    told = {"max_difference": difference, "largest_logit": expected.abs().max().item(), "num_unmatched": num_unmatched}
    print(json.dumps(told))


def _logits(directory: str) -> tuple[torch.Tensor, int]:
    """The model's logits of some tokens, and how many tensors only one of checkpoint and class has."""
    model: Any
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, SHAPE, generator=generator)
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(tokens, use_cache=False).logits
    return logits, len(info["missing_keys"]) + len(info["unexpected_keys"])


if __name__ == "__main__":
    main(*sys.argv[1:])
