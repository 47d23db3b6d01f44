"""What is served, and where: the models with their roles, the slots that hold them, the router and the limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moe_ray.config.schema import DecodingConfig, ExperimentConfig, ModelConfig, RuntimeConfig
from moe_ray.config.serving import ServingConfig
from moe_ray.engines.registry import settings_class
from moe_ray.errors import CapacityError
from moe_ray.planning.fleet import Demand, Fleet, Slot
from moe_ray.serving.scheduler import SlotLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as clients see it. `domains` are those whose expert it is; `context_tokens` is None where unknown.

    `gives_logprobs` says whether its engine can report log-probabilities and echo prompts.
    """

    name: str
    model: ModelConfig
    domains: tuple[str, ...]
    is_baseline: bool
    context_tokens: int | None = None
    gives_logprobs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSlot:
    """A slot, and the models that take turns on it; with one model, it stays loaded."""

    name: str
    slot: Slot
    uses_gpu: bool
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedSystem:
    """All that the processes of the application are made from. `experts` maps each domain to the model it goes to."""

    name: str
    models: tuple[ServedModel, ...]
    experts: Mapping[str, str]
    fallback: str | None
    slots: tuple[SharedSlot, ...]
    router_dir: Path | None
    decoding: DecodingConfig
    runtime: RuntimeConfig
    serving: ServingConfig

    @property
    def limits(self) -> SlotLimits:
        """What each slot accepts."""
        its = self.serving
        return SlotLimits(max_running=its.max_running, max_queued=its.max_queued, max_wait_s=its.max_wait_s)

    @property
    def max_calls(self) -> int:
        """Calls that can run or wait at a time, in all slots together."""
        return len(self.slots) * self.serving.max_running + self.serving.max_queued

    @property
    def by_name(self) -> dict[str, ServedModel]:
        return {served.name: served for served in self.models}

    @property
    def default_model(self) -> str:
        """The model that is meant where none is named and none is routed to."""
        return self.fallback or self.models[0].name


def served_models(config: ExperimentConfig, context_tokens: Mapping[str, int | None]) -> tuple[ServedModel, ...]:
    """Return the experiment's models in the order of its file."""
    return tuple(
        ServedModel(
            name=name,
            model=model,
            domains=tuple(domain for domain, its in config.domains.items() if its.expert == name),
            is_baseline=name == config.baseline,
            context_tokens=context_tokens.get(name),
            gives_logprobs=settings_class(model.engine).gives_logprobs,
        )
        for name, model in config.models.items()
    )


def lay_out(demands: Mapping[str, Demand], fleet: Fleet, copies: Mapping[str, int]) -> tuple[SharedSlot, ...]:
    """Give each model a slot of its own while there is room; the others take turns on the slots that can hold them.

    The largest model comes first, so that a slot can hold each model that joins it later. A model whose second or
    later copy finds no room gets fewer copies. Raises `CapacityError` for a model that finds no slot.
    """
    slots: list[SharedSlot] = []
    order = sorted(demands, key=lambda model: demands[model].gpus, reverse=True)
    for model in order:
        slot = fleet.take(demands[model])
        if slot is None:
            slots = _joined(slots, model, demands)
        else:
            slots.append(_own(slots, slot, model, demands[model]))
    for model in order:
        for _ in range(copies.get(model, 1) - 1):
            slot = fleet.take(demands[model])
            if slot is not None:
                slots.append(_own(slots, slot, model, demands[model]))
    return tuple(slots)


def _own(slots: Sequence[SharedSlot], slot: Slot, model: str, demand: Demand) -> SharedSlot:
    return SharedSlot(name=f"slot-{len(slots)}", slot=slot, uses_gpu=demand.gpus > 0, models=(model,))


def _joined(slots: list[SharedSlot], model: str, demands: Mapping[str, Demand]) -> list[SharedSlot]:
    """Add `model` to the slot with the fewest models among those that are large enough."""
    wanted = demands[model]
    able = [
        index
        for index, slot in enumerate(slots)
        if slot.uses_gpu == (wanted.gpus > 0) and slot.slot.num_gpus + 1e-9 >= wanted.gpus
    ]
    if not able:
        raise CapacityError(
            f"no slot is left for one copy, which takes {wanted.gpus:g} GPU(s) ({wanted.reason})",
            where=f"models.{model}",
            remedy="name a larger cluster, or remove a model",
        )
    chosen = min(able, key=lambda index: len(slots[index].models))
    slots[chosen] = replace(slots[chosen], models=(*slots[chosen].models, model))
    return slots
