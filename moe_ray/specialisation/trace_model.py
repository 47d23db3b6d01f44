"""`moe-ray specialise trace`: load a mixture, trace texts through it, and write the trace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import moe_ray
from moe_ray.architectures.gated_mixture import GatedMixtureForCausalLM
from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.loading import LoadedModel, load
from moe_ray.engines.transformers.mixture import mixture_facts
from moe_ray.errors import DataError, ModelError
from moe_ray.formatting import plural
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.gate import gate_layer, trace_gate
from moe_ray.specialisation.records import TraceManifest
from moe_ray.specialisation.resuming import ResumableTrace
from moe_ray.specialisation.sampling import ExpertSampler
from moe_ray.specialisation.texts import SourceTexts
from moe_ray.specialisation.tokens import EncodedText, TextEncoder
from moe_ray.specialisation.tracing import TracingOptions, trace_texts
from moe_ray.specialisation.writing import TextTrace, write_trace

DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """What to trace. `model` is a folder or a hub id; `with_similarity` compares the experts of each layer."""

    model: str
    out: Path
    texts: SourceTexts
    chat: bool = False
    max_tokens: int = DEFAULT_MAX_TOKENS
    num_skipped: int = 0
    dtype: str = "auto"
    options: TracingOptions = field(default_factory=TracingOptions)
    with_similarity: bool = False


def trace_model(request: TraceRequest, on_text: Callable[[], object] = lambda: None) -> TraceManifest:
    """Trace the texts and write the trace to `request.out`; returns its manifest.

    A trace that was stopped continues, except one with similarities, which need all texts in one process.

    Raises `ModelError` for a checkpoint that cannot be loaded or has no experts that can be traced.
    """
    config = _model_config(request)
    hashes = FileHashes()
    checkpoint = inspect_checkpoint("model", config, hashes)
    hashes.save()
    loaded = load(config, TransformersSettings(), any_head=True)
    texts, notes = _encoded(request, loaded)
    is_gated = isinstance(loaded.model, GatedMixtureForCausalLM)
    sites = [] if is_gated else sites_of(loaded, name=request.model)
    manifest = TraceManifest(
        moe_ray_version=moe_ray.__version__,
        model=request.model,
        model_type=str(loaded.model.config.model_type),
        model_fingerprint=checkpoint.identity.fingerprint,
        unit="text" if is_gated else "token",
        layers=[gate_layer(loaded.model)] if is_gated else [site.record for site in sites],
        expert_names=_names(loaded),
        settings=_settings(request, is_gated=is_gated),
        num_texts=0,
        num_tokens=0,
        num_masked=0,
        notes=[*request.texts.notes, *notes, *_unknown_scores(sites)],
    )
    with_tokens = request.options.with_tokens and not is_gated
    if request.with_similarity and not is_gated:
        sampler = ExpertSampler(sites, texts)
        traced = trace_texts(loaded, sites, texts, request.options, on_text)
        with sampler.sampling():
            return write_trace(request.out, manifest, traced, with_tokens=with_tokens, similarity=sampler.table)
    trace = ResumableTrace(
        out=request.out,
        manifest=manifest,
        texts=texts,
        batch_size=request.options.batch_size,
        with_tokens=with_tokens,
        trace_texts=partial(trace_gate, loaded) if is_gated else partial(_traced, loaded, sites, request.options),
    )
    return trace.write(on_text)


def _traced(
    loaded: LoadedModel, sites: Sequence[RoutingSite], options: TracingOptions, texts: Sequence[EncodedText]
) -> Iterator[TextTrace]:
    return trace_texts(loaded, sites, texts, options)


def _model_config(request: TraceRequest) -> ModelConfig:
    path = request.model
    if not is_local_path(path) and Path(path).is_dir():
        path = str(Path(path).absolute())
    return ModelConfig(path=path, dtype=request.dtype, prompt_style="chat" if request.chat else "completion")


def _encoded(request: TraceRequest, loaded: LoadedModel) -> tuple[list[EncodedText], list[str]]:
    limit = min(request.max_tokens, loaded.context_length or request.max_tokens)
    encoder = TextEncoder(
        tokenizer=loaded.tokenizer,
        special_ids=loaded.special_token_ids,
        max_tokens=limit,
        chat=request.chat,
        num_skipped=request.num_skipped,
    )
    encoded = list(encoder.encode(request.texts.texts))
    _require_known(encoded, loaded, request.model)
    kept = [text for text in encoded if text.num_counted]
    if not kept:
        raise DataError("no text has a token that counts", remedy="give longer texts, or raise --max-tokens")
    num_cut, num_empty = sum(text.is_cut for text in kept), len(encoded) - len(kept)
    notes = [f"{plural(num_cut, 'text')} cut after {limit} tokens"] if num_cut else []
    notes += [f"{plural(num_empty, 'text')} without a token that counts left out"] if num_empty else []
    return kept, notes


def _require_known(texts: Sequence[EncodedText], loaded: LoadedModel, name: str) -> None:
    largest = max(max(text.token_ids, default=0) for text in texts)
    if largest >= loaded.vocabulary_size:
        raise ModelError(
            f"its tokenizer gives token {largest}, and its vocabulary has {loaded.vocabulary_size}",
            where=name,
            remedy="put the files of the tokenizer that it was trained with beside the weights",
        )


def _names(loaded: LoadedModel) -> list[str]:
    names = list(mixture_facts(loaded.model.config.to_dict()).expert_names)
    return [] if names == [str(place) for place in range(len(names))] else names


def _settings(request: TraceRequest, *, is_gated: bool) -> dict[str, Any]:
    return {
        "chat": request.chat,
        "max_tokens": request.max_tokens,
        "num_skipped": request.num_skipped,
        "with_tokens": request.options.with_tokens and not is_gated,
        "with_norms": request.options.with_norms and not is_gated,
    }


def _unknown_scores(sites: Sequence[RoutingSite]) -> list[str]:
    layers = [str(site.record.layer) for site in sites if site.record.scores == "unknown"]
    if not layers:
        return []
    return [f"no probabilities of the router in layers {', '.join(layers)}: entropies and margins are absent there"]
