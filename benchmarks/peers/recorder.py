"""Runs lm_eval's own command line and notes what its logs leave out: token ids, and where the seconds go.

    VENV/bin/python recorder.py RECORD.json run --model hf ...

It runs in lm_eval's environment, as a script: nothing of moe_ray is importable there. Only methods are wrapped; what
they do and return is lm_eval's. RECORD.json holds `rows` (prompt, max_new_tokens, stop, token_ids: as `generate`
returned them, with end and padding tokens) and the seconds of loading, generating and measuring.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.models.huggingface import HFLM

RECORD: dict[str, Any] = {"rows": [], "load_s": 0.0, "generate_s": 0.0, "measure_s": 0.0}


def timed(method: Callable[..., Any], key: str) -> Callable[..., Any]:
    """Return `method` with its seconds added to the record's `key`."""

    def run(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            RECORD[key] += time.perf_counter() - started

    return run


class Rows:
    """Joins the texts that were encoded last with the token ids that were then generated."""

    def __init__(self) -> None:
        self._encode = HFLM.tok_batch_encode
        self._generate = HFLM._model_generate
        self._prompts: list[str] = []

    def encode(self, model: Any, strings: list[str], **named: Any) -> Any:
        self._prompts = list(strings)
        return self._encode(model, strings, **named)

    def generate(self, model: Any, context: Any, max_length: int, stop: list[str], **named: Any) -> Any:
        found = self._generate(model, context, max_length, stop, **named)
        width = context.shape[1]
        for prompt, token_ids in zip(self._prompts, found.tolist(), strict=True):
            # Its last stop string is the end token, which it adds itself.
            RECORD["rows"].append(
                {
                    "prompt": prompt,
                    "max_new_tokens": max_length - width,
                    "stop": stop[:-1],
                    "token_ids": token_ids[width:],
                }
            )
        return found


def main() -> None:
    record = Path(sys.argv.pop(1))
    rows = Rows()
    HFLM.__init__ = timed(HFLM.__init__, "load_s")
    HFLM.generate_until = timed(HFLM.generate_until, "generate_s")
    HFLM.loglikelihood = timed(HFLM.loglikelihood, "measure_s")
    HFLM.tok_batch_encode = lambda model, strings, **named: rows.encode(model, strings, **named)
    HFLM._model_generate = lambda model, **named: rows.generate(model, **named)
    try:
        cli_evaluate()
    finally:
        record.write_text(json.dumps(RECORD), encoding="utf-8")


if __name__ == "__main__":
    main()
