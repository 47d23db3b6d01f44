"""The exact prompts of an experiment, made by the engine's own encoder. Loads no weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from moe_ray.config.load import LoadedExperiment
from moe_ray.config.schema import ExperimentConfig, ModelConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.domains.loading import load_domain
from moe_ray.engines.registry import settings_class
from moe_ray.errors import ConfigError, ModelError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.runs.inputs import located
from moe_ray.suggestions import suggestion

if TYPE_CHECKING:
    from moe_ray.prompts.encoder import PromptEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """A text whose log-likelihood is measured after the prompt. `num_tokens` is None where tokens are unknown here."""

    text: str
    num_tokens: int | None = None
    fits: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPrompt:
    """What one model is asked for one example.

    `text` is all that the model reads, None where the engine applies a chat template of its own; `token_ids` are None
    without a tokenizer here. `num_tokens` counts the prompt before anything is cut, `num_truncated` what is cut from
    its left. `error` says why the model cannot answer it.
    """

    domain: str
    model: str
    engine: str
    example: str
    style: PromptStyle
    messages: tuple[Message, ...]
    stop: tuple[str, ...]
    max_new_tokens: int
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    num_tokens: int | None = None
    num_truncated: int = 0
    context_length: int | None = None
    continuations: tuple[Continuation, ...] = ()
    error: str | None = None


def prompts_of(
    experiment: LoadedExperiment, *, domain: str | None = None, model: str | None = None, number: int = 1
) -> Iterator[ShownPrompt]:
    """Yield the prompts of the first `number` examples of each domain for each model that answers it.

    `domain` and `model` choose one of each. Raises the `UserError` of what is wrong with the data or a tokenizer.
    """
    config = experiment.config
    _require_known("--domain", domain, config.domains)
    _require_known("--model", model, config.models)
    with located(experiment):
        yield from _prompts(experiment, config, domain, model, number)


def _prompts(
    experiment: LoadedExperiment, config: ExperimentConfig, domain: str | None, model: str | None, number: int
) -> Iterator[ShownPrompt]:
    encoders: dict[str, _Encoder] = {}
    shown = False
    for name in config.domains if domain is None else [domain]:
        models = [one for one in config.models_of(name) if model in (None, one)]
        if not models:
            continue
        shown = True
        section = config.domains[name]
        examples = load_domain(name, section, experiment.base_dir).examples[:number]
        limit = section.max_new_tokens or config.decoding.max_new_tokens
        for one in models:
            if one not in encoders:
                encoders[one] = _Encoder(one, config.models[one])
            encoder = encoders[one]
            yield from (encoder.shown(example, limit, likelihood=config.likelihood) for example in examples)
    if not shown:
        raise ConfigError(
            f"model {model} does not answer {domain}", where="--model", remedy="leave one of the two options out"
        )


def _require_known(option: str, name: str | None, known: Mapping[str, object]) -> None:
    if name is not None and name not in known:
        raise ConfigError(
            f"the experiment has no {name!r}{suggestion(name, known)}",
            where=option,
            remedy=f"choose one of {', '.join(known)}",
        )


class _Encoder:
    """Shows the prompts of one model, whose tokenizer is loaded once."""

    def __init__(self, name: str, model: ModelConfig) -> None:
        self._name = name
        self._model = model
        self._encoder, self._context_length = _prompt_encoder(name, model)

    def shown(self, example: Example, max_new_tokens: int, *, likelihood: bool) -> ShownPrompt:
        prompt = example.prompts[self._model.prompt_style]
        is_whole = self._encoder is None and self._model.prompt_style == "completion"
        raw = ShownPrompt(
            domain=example.domain,
            model=self._name,
            engine=self._model.engine,
            example=example.id,
            style=self._model.prompt_style,
            messages=prompt.messages,
            stop=prompt.stop,
            max_new_tokens=max_new_tokens,
            text="".join(message.content for message in prompt.messages) if is_whole else None,
            context_length=self._context_length,
            continuations=tuple(Continuation(text=text) for text in prompt.continuations) if likelihood else (),
        )
        return raw if self._encoder is None else _encoded(raw, self._encoder, prompt)


def _prompt_encoder(name: str, model: ModelConfig) -> "tuple[PromptEncoder | None, int | None]":
    """Return the engine's own encoder and the context length; no encoder where another program encodes prompts."""
    if not settings_class(model.engine).loads_checkpoint:
        return None, None
    # Imported here: torch takes seconds to load, and other engines need none of it.
    from moe_ray.engines.transformers.loading import load_tokenizer_alone
    from moe_ray.prompts.encoder import PromptEncoder

    try:
        loaded = load_tokenizer_alone(model)
        return PromptEncoder(loaded, model), loaded.context_length
    except ModelError as error:
        error.where = f"models.{name}.{'path' if model.tokenizer is None else 'tokenizer'}"
        raise


def _encoded(raw: ShownPrompt, encoder: "PromptEncoder", prompt: Prompt) -> ShownPrompt:
    from moe_ray.prompts.encoder import RowError

    text: str | None = None
    try:
        text = encoder.text(prompt)
        encoded = encoder.encode(prompt, raw.max_new_tokens)
    except RowError as error:
        return replace(raw, text=text, num_tokens=error.num_prompt_tokens or None, error=error.reason)
    return replace(
        raw,
        text=text,
        token_ids=encoded.token_ids,
        num_tokens=len(encoded.token_ids) + encoded.num_truncated,
        num_truncated=encoded.num_truncated,
        continuations=_measured(raw.continuations, encoder, prompt),
    )


def _measured(
    continuations: tuple[Continuation, ...], encoder: "PromptEncoder", prompt: Prompt
) -> tuple[Continuation, ...]:
    from moe_ray.prompts.encoder import RowError

    if not continuations:
        return ()
    try:
        pair = encoder.encode_pair(prompt)
    except RowError:
        return tuple(replace(one, fits=False) for one in continuations)
    return tuple(
        replace(one, num_tokens=len(tokens), fits=place in pair.fitting)
        for place, (one, tokens) in enumerate(zip(continuations, pair.continuations, strict=True))
    )
