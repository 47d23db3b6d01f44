"""Answers, made for the tests of the store."""

from moe_ray.store.answers import Answer


def answer(key: str, *, model: str = "m", domain: str = "d", text: str = "text") -> Answer:
    return Answer(
        key=key,
        kind="generate",
        model=model,
        domain=domain,
        example_id="e" + key,
        sample_index=0,
        messages="[]",
        settings="{}",
        text=text,
        token_ids=[1, 2],
        finish_reason="stop",
        num_prompt_tokens=3,
        num_completion_tokens=2,
        loglikelihoods=None,
        loglikelihood_tokens=None,
        error=None,
        batch_rows=1,
        time_to_first_token_s=0.1,
        total_s=0.2,
        replica="r",
        shard="s",
        finished_at=1.0,
    )
