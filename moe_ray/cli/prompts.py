"""`moe-ray prompts`: the exact prompts of an experiment, with token counts."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from moe_ray.characters import one_line, printable
from moe_ray.cli.terminal import output_console
from moe_ray.config.load import LoadedExperiment
from moe_ray.formatting import plural
from moe_ray.runs.preview import Continuation, ShownPrompt, prompts_of

MARGIN = "  | "


def show_prompts(
    experiment: LoadedExperiment, domain: str | None, model: str | None, number: int, *, as_json: bool
) -> None:
    """Print the prompts of `number` examples of each domain, or of one, for each model, or for one."""
    console = output_console(soft_wrap=True)
    for shown in prompts_of(experiment, domain=domain, model=model, number=number):
        for line in [json.dumps(asdict(shown))] if as_json else _lines(shown):
            console.print(line)


def _lines(shown: ShownPrompt) -> Iterator[str]:
    yield one_line(f"{shown.domain} / {shown.model} / {shown.example}: {_counts(shown)}")
    if shown.text is not None:
        yield _quoted(shown.text)
    else:
        yield f"  the messages as engine {one_line(shown.engine)} receives them; it applies its own chat template:"
        for message in shown.messages:
            yield _quoted(f"[{message.role}] {message.content}")
    if shown.error is not None:
        yield one_line(f"  error: {shown.error}")
    if shown.num_truncated:
        yield f"  cut: {plural(shown.num_truncated, 'token')} at the beginning, to fit the context"
    if shown.stop:
        yield f"  stop strings: {', '.join(map(_spelled, shown.stop))}"
    if shown.continuations:
        yield f"  likelihoods of: {', '.join(map(_continuation, shown.continuations))}"
    yield ""


def _counts(shown: ShownPrompt) -> str:
    if shown.num_tokens is None:
        return f"{shown.style}, number of tokens unknown, {shown.max_new_tokens:,} may follow"
    context = "of unknown length" if shown.context_length is None else f"of {shown.context_length:,}"
    tokens = plural(shown.num_tokens, "token")
    return f"{shown.style}, {tokens}, {shown.max_new_tokens:,} may follow, context {context}"


def _quoted(text: str) -> str:
    """`text` behind a margin, so that no line of it can be taken for one of ours."""
    return "\n".join(f"{MARGIN}{line}" for line in printable(text).split("\n"))


def _continuation(one: Continuation) -> str:
    if one.fits is False:
        return f"{_spelled(one.text)} (does not fit)"
    return _spelled(one.text) if one.num_tokens is None else f"{_spelled(one.text)} ({plural(one.num_tokens, 'token')})"


def _spelled(text: str) -> str:
    return one_line(json.dumps(text, ensure_ascii=False))
