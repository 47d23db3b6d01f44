"""`moe-ray specialise ablate`: remove experts of a loaded mixture in turn, and keep what it changes on each text."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moe_ray.architectures.gated_mixture import GatedMixtureForCausalLM
from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.loading import LoadedModel, load
from moe_ray.engines.transformers.mixture import mixture_facts
from moe_ray.errors import DataError, ModelError
from moe_ray.fingerprint import fingerprint
from moe_ray.mixtures.interventions import Intervention, require_possible
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.ablation import records
from moe_ray.specialisation.ablation.means import reference_means
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.records import ALL_LAYERS, AblatedUnit, AblationPlan, SplitRecord
from moe_ray.specialisation.ablation.scoring import as_questions, score_name, scored_texts, with_classes
from moe_ray.specialisation.ablation.split import is_for_choosing
from moe_ray.specialisation.texts import SourceText, SourceTexts

TEXTS_PER_PART = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRequest:
    """What to ablate. `model` is a folder or a hub id; no `experts` or `layers` are all of them.

    `whole` removes an expert from all chosen layers at once, else from each apart. `sets` are layers (-1: all) and
    experts to remove together, in place of single ones; `chosen` says how they were chosen. The operation mean takes
    answers to the texts of `reference`, by default those of `texts` that are for choosing. `zero_shot` is a question
    after each text, whose choices are the classes.
    """

    model: str
    out: Path
    texts: SourceTexts
    options: AblationOptions
    experts: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    whole: bool = False
    chat: bool = False
    max_tokens: int = 512
    dtype: str = "auto"
    sets: tuple[tuple[int, tuple[int, ...]], ...] = ()
    reference: tuple[SourceText, ...] | None = None
    zero_shot: str | None = None
    chosen: SplitRecord | None = None

    @property
    def reference_texts(self) -> tuple[SourceText, ...]:
        """The texts whose mean answers the operation mean takes; none for other operations."""
        if self.options.operation != "mean":
            return ()
        given = self.texts.texts if self.reference is None else self.reference
        return tuple(text for text in given if is_for_choosing(text.text_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationProgress:
    """Calls while an ablation runs."""

    on_start: Callable[[int, int], object] = field(default=lambda _num_texts, _num_done: None)
    on_text: Callable[[], object] = field(default=lambda: None)


def ablate_model(request: AblationRequest, progress: AblationProgress | None = None) -> AblationPlan:
    """Measure the removals and write them to `request.out`, or continue there; returns what was planned.

    A part that is written is not computed again. Raises `ModelError` for a checkpoint that cannot be loaded or whose
    experts cannot be removed so, `DataError` for texts that cannot be scored, and `RunDirectoryError` for a folder
    that holds another ablation.
    """
    progress = progress or AblationProgress()
    _require_one_score(request.texts.texts)
    config = _model_config(request)
    hashes = FileHashes()
    checkpoint = inspect_checkpoint("model", config, hashes)
    hashes.save()
    loaded = load(config, TransformersSettings(), any_head=True)
    if isinstance(loaded.model, GatedMixtureForCausalLM):
        raise ModelError(
            "its gate decides once for a whole text, which an ablation of tokens cannot remove",
            where=request.model,
            remedy="compare its experts with engine_settings: {expert: ...} in an experiment",
        )
    request = _with_classes(request, loaded)
    if request.options.operation == "mean" and not request.reference_texts:
        raise DataError("no text is for choosing", where="--texts", remedy="give more texts; half of them are")
    sites = sites_of(loaded, name=request.model)
    plan = _plan(request, loaded, sites, checkpoint.identity.fingerprint)
    records.begin(request.out, plan)
    if not records.is_complete(request.out):
        _measure(request, plan, loaded, config, sites, progress)
    return plan


def _with_classes(request: AblationRequest, loaded: LoadedModel) -> AblationRequest:
    """Give all texts the classes of a classifier, or those that a question asks for, as their choices."""

    names = sorted({text.label for text in (*request.texts.texts, *(request.reference or ()))})

    def classified(texts: Sequence[SourceText]) -> tuple[SourceText, ...]:
        if request.zero_shot is not None:
            return as_questions(texts, names, request.zero_shot, loaded, max_tokens=request.max_tokens)
        return with_classes(texts, loaded)

    reference = None if request.reference is None else classified(request.reference)
    texts = replace(request.texts, texts=classified(request.texts.texts))
    return replace(request, texts=texts, reference=reference)


def _require_one_score(texts: Sequence[SourceText]) -> None:
    num_with = sum(bool(text.choices) for text in texts)
    if num_with not in (0, len(texts)):
        raise DataError(
            f"{num_with} of {len(texts)} texts have choices", remedy="give choices to every text, or to none"
        )


def _model_config(request: AblationRequest) -> ModelConfig:
    path = request.model
    if not is_local_path(path) and Path(path).is_dir():
        path = str(Path(path).absolute())
    return ModelConfig(path=path, dtype=request.dtype, prompt_style="chat" if request.chat else "completion")


def _plan(
    request: AblationRequest, loaded: LoadedModel, sites: Sequence[RoutingSite], model_fingerprint: str
) -> AblationPlan:
    layers = [site.record for site in sites]
    experts = request.experts or tuple(range(max(layer.num_experts for layer in layers)))
    for chosen in _interventions(request):
        require_possible(chosen, layers, name=request.model)
    texts, options = request.texts.texts, request.options
    numbers = [len(text.choices) for text in texts]
    names = list(mixture_facts(loaded.model.config.to_dict()).expert_names)
    return AblationPlan(
        model=request.model,
        model_type=str(loaded.model.config.model_type),
        model_fingerprint=model_fingerprint,
        layers=layers,
        expert_names=[] if names == [str(place) for place in range(len(names))] else names,
        operation=options.operation,
        units=[
            AblatedUnit(
                layer=ALL_LAYERS if unit.at is None else layers[unit.at].layer,
                expert=unit.expert,
                with_experts=list(unit.with_experts),
            )
            for unit in units_of(request, sites, experts)
        ],
        num_draws=options.num_draws,
        seed=options.seed,
        score=score_name(texts),
        num_choices=numbers[0] if len(set(numbers)) == 1 else 0,
        settings={
            "chat": request.chat,
            "max_tokens": request.max_tokens,
            "batch_size": options.batch_size,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            **({"reference": _identity(request.reference_texts)} if request.reference_texts else {}),
        },
        texts=_identity(texts),
        num_parts=max(1, -(-len(texts) // TEXTS_PER_PART)),
        notes=list(request.texts.notes),
        chosen=request.chosen,
    )


def _identity(texts: Sequence[SourceText]) -> str:
    return fingerprint([[text.text_id, text.label, text.text, text.choices, text.answer] for text in texts])


def _interventions(request: AblationRequest) -> Iterator[Intervention]:
    """Yield what must be possible."""
    operation = request.options.operation
    for layer, experts in request.sets:
        yield Intervention(operation=operation, experts=experts, layers=() if layer == ALL_LAYERS else (layer,))
    for expert in () if request.sets else request.experts or (0,):
        yield Intervention(operation=operation, experts=(expert,), layers=request.layers)


def units_of(request: AblationRequest, sites: Sequence[RoutingSite], experts: Sequence[int]) -> list[RemovedUnit]:
    """Return what is removed, layer by layer."""
    if request.sets:
        places = {site.record.layer: at for at, site in enumerate(sites)}
        return [
            RemovedUnit(expert=first, at=places.get(layer), with_experts=tuple(others))
            for layer, (first, *others) in request.sets
        ]
    if request.whole:
        return [RemovedUnit(expert=expert, at=None) for expert in experts]
    return [
        RemovedUnit(expert=expert, at=at)
        for at, site in enumerate(sites)
        if not request.layers or site.record.layer in request.layers
        for expert in experts
        if expert < site.record.num_experts
    ]


def _measure(
    request: AblationRequest,
    plan: AblationPlan,
    loaded: LoadedModel,
    config: ModelConfig,
    sites: Sequence[RoutingSite],
    progress: AblationProgress,
) -> None:
    places = {site.record.layer: at for at, site in enumerate(sites)}
    units = [
        RemovedUnit(expert=one.expert, at=places.get(one.layer), with_experts=tuple(one.with_experts))
        for one in plan.units
    ]
    means, notes = None, list[str]()
    if request.reference_texts:
        means, notes = reference_means(request.reference_texts, loaded, config, sites, max_tokens=request.max_tokens)
    meter = AblationMeter(loaded, sites, units, request.options, name=request.model, means=means)
    parts = parts_of(request.texts.texts, plan.num_parts)
    missing = [part for part in range(plan.num_parts) if not records.part_path(request.out, part).is_file()]
    num_texts = len(request.texts.texts)
    progress.on_start(num_texts, num_texts - sum(len(parts[part]) for part in missing))
    # Processes that were started on one folder begin at different parts, and skip what another one has written.
    first = os.getpid() % max(1, len(missing))
    for part in (*missing[first:], *missing[:first]):
        if records.part_path(request.out, part).is_file() or records.is_complete(request.out):
            continue
        found = []
        for text in scored_texts(parts[part], loaded, config, max_tokens=request.max_tokens):
            if text is not None:
                found.append(meter.measure(text))
            progress.on_text()
        records.write_part(request.out, part, found)
    records.finish(request.out, plan.num_parts, notes)


def parts_of(texts: Sequence[SourceText], num_parts: int) -> list[list[SourceText]]:
    """Return the texts of each part, chosen by a hash of their ids."""
    parts: list[list[SourceText]] = [[] for _ in range(num_parts)]
    for text in texts:
        parts[int(fingerprint(text.text_id), 16) % num_parts].append(text)
    return parts
