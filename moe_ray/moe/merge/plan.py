"""Plan a merge: check that the models fit together, name the mixture's tensors, and list what differs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_ray import architectures
from moe_ray.architectures.gated_mixture import GatedMixtureConfig, MixtureMode
from moe_ray.checkpoints.source import (
    COMPANION_FILES,
    VOCABULARY_FILES,
    SourceCheckpoint,
    compare_sources,
    open_source,
)
from moe_ray.errors import ModelError
from moe_ray.files import parse_json, read_text
from moe_ray.moe.certificate import LayerVerdict
from moe_ray.moe.merge.gate import Gate, GateRecord, read_gate
from moe_ray.moe.merge.gate_training import tensor_sha256

MODEL_PREFIX = "language_model."
GATE_PREFIX = "gating_network."
# Keys that do not change what a fine-tune computes: names, versions, padding of training batches.
FREE_KEYS = frozenset(
    ("name_or_path", "transformers_version", "_from_model_config", "is_local", "local_files_only", "padding_side")
)
END_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id")
NUM_NAMED = 3
# A layer's experts: language_model.model.layers.3.mlp.experts.0.up_proj.weight
_EXPERT = re.compile(r"^(?P<layer>.*?\.(?P<number>\d+)\.mlp)\.experts\.(?P<expert>\d+)\.(?P<rest>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedTensor:
    """A tensor of the mixture. `dense` is its name in the sources; None for the gate's tensors.

    `expert` and `layer` are set for tensors of an expert; all others come from the first source.
    """

    name: str
    dense: str | None
    expert: int | None = None
    layer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """All tensors of a mixture except tied ones. `embedding` is the input embeddings' name in the sources."""

    tensors: tuple[MergedTensor, ...]
    embedding: str

    @property
    def of_experts(self) -> frozenset[str]:
        """Return the names of the sources' feed-forward tensors."""
        return frozenset(tensor.dense for tensor in self.tensors if tensor.dense and tensor.expert is not None)

    def verdicts(self) -> list[LayerVerdict]:
        """Return the layers' verdicts for the certificate: all are converted."""
        layers = sorted({tensor.layer for tensor in self.tensors if tensor.layer is not None})
        return [LayerVerdict(layer=layer, state="converted") for layer in layers]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MergePlan:
    """A valid merge. `sources` are named as the experts, in the gate's order.

    `differences` has a line for each difference between sources that is resolved by taking the first source's value.
    """

    sources: tuple[SourceCheckpoint, ...]
    gate: Gate
    config: GatedMixtureConfig
    naming: Naming
    num_bytes: int
    differences: tuple[str, ...]


def plan_merge(
    models: Mapping[str, Path], gate_dir: Path, *, mode: MixtureMode = "weighted_sum", take_first: bool = False
) -> MergePlan:
    """Plan the merge of `models`, by expert name, behind the gate in `gate_dir`.

    Reads the tensors that must be equal, one pair at a time. Raises `ModelError` for sources or a gate that do not
    belong together, and, unless `take_first`, for any difference between the sources outside the feed-forwards.
    """
    gate = read_gate(gate_dir)
    _require_experts(models, gate)
    sources = tuple(open_source(models[expert].expanduser().absolute(), name=expert) for expert in gate.record.experts)
    _require_width(sources[0], gate)
    config = _config(sources[0], gate, mode)
    naming = naming_of(config, sources[0])
    found = differences(sources, gate.record, naming)
    if not take_first:
        require_none(found)
    return MergePlan(
        sources=sources,
        gate=gate,
        config=config,
        naming=naming,
        num_bytes=sum(tensor.nbytes for _, tensor in pieces(sources, gate, naming, with_values=False)),
        differences=tuple(found),
    )


def _require_experts(models: Mapping[str, Path], gate: Gate) -> None:
    if set(models) != set(gate.record.experts):
        raise ModelError(
            f"the gate chooses between {', '.join(gate.record.experts)}; the models are {', '.join(models)}",
            where=str(gate.directory),
            remedy="give one model for each of the gate's experts: NAME=MODEL",
        )


def _require_width(first: SourceCheckpoint, gate: Gate) -> None:
    width = int(first.config.get_text_config().hidden_size)
    if gate.network.num_inputs != width:
        raise ModelError(
            f"the gate reads embeddings of {gate.network.num_inputs} numbers; {first.directory} has {width}",
            where=str(gate.directory),
            remedy="train a gate on the base of these fine-tunes",
        )


def _config(first: SourceCheckpoint, gate: Gate, mode: MixtureMode) -> GatedMixtureConfig:
    architectures.register()
    return GatedMixtureConfig(
        text_config=first.config,
        num_experts=len(gate.record.experts),
        expert_names=list(gate.record.experts),
        mixture_mode=mode,
        gate_hidden_sizes=list(gate.network.hidden_sizes),
        gate_dropout=gate.network.dropout,
        dtype=first.config.dtype,
        architectures=["GatedMixtureForCausalLM"],
    )


def pieces(
    sources: tuple[SourceCheckpoint, ...], gate: Gate, naming: Naming, *, with_values: bool = True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the mixture's tensors one by one; without values, on the meta device."""
    own = gate.network.state_dict()
    for tensor in naming.tensors:
        if tensor.dense is None:
            yield tensor.name, own[tensor.name.removeprefix(GATE_PREFIX)]
        else:
            reader = sources[tensor.expert or 0].reader
            yield tensor.name, reader.get(tensor.dense) if with_values else reader.get_empty(tensor.dense)


def naming_of(config: Any, first: SourceCheckpoint) -> Naming:
    """Build the mixture of `config` on the meta device, and map its tensors to those of the source `first`.

    Raises `ModelError` for an architecture whose feed-forwards cannot become experts.
    """
    from moe_ray.architectures.gated_layers import require_mixing_arrives
    from moe_ray.architectures.gated_mixture import GatedMixtureForCausalLM

    try:
        with torch.device("meta"):
            model = GatedMixtureForCausalLM(config)
        require_mixing_arrives(model.language_model)
    except ValueError as error:
        raise ModelError(
            str(error), where=str(first.directory), remedy="merge models of a family whose layers have an mlp"
        ) from error
    tied = set(model.all_tied_weights_keys)
    there = set(first.reader.names())
    tensors = [_tensor(name) for name in model.state_dict() if name not in tied or _tensor(name).dense in there]
    weight = model.get_input_embeddings().weight
    embedding = next(name for name, one in model.named_parameters() if one is weight)
    return Naming(tensors=tuple(tensors), embedding=embedding.removeprefix(MODEL_PREFIX))


def _tensor(name: str) -> MergedTensor:
    if name.startswith(GATE_PREFIX):
        return MergedTensor(name=name, dense=None)
    dense = name.removeprefix(MODEL_PREFIX)
    found = _EXPERT.match(dense)
    if found is None:
        return MergedTensor(name=name, dense=dense)
    parts: Mapping[str, str] = found.groupdict()
    return MergedTensor(
        name=name,
        dense=f"{parts['layer']}.{parts['rest']}",
        expert=int(parts["expert"]),
        layer=int(parts["number"]),
    )


def differences(sources: Sequence[SourceCheckpoint], gate: GateRecord, naming: Naming) -> list[str]:
    """Return a line for each tensor, file or field outside the feed-forwards in which a source differs from the first.

    Also compares the first source's input embeddings with those that the gate was trained on. Raises `ModelError` if
    two sources differ in shape, configuration, tokenizer, vocabulary or dtype.
    """
    first, found, of_experts = sources[0], list[str](), naming.of_experts
    for other in sources[1:]:
        found += [
            f"{one.source}: {one.tensor} differs by up to {one.max_abs:.3g}"
            for one in compare_sources(first, other, of_experts.__contains__)
        ]
        found += _different_files(first, other)
        found += _different_ends(first, other)
    if tensor_sha256(first.reader.get(naming.embedding)) != gate.embeddings_sha256:
        found.append(f"{first.name}: {naming.embedding} is not what the gate was trained on ({gate.base_model})")
    return found


def require_none(found: Sequence[str]) -> None:
    """Raise `ModelError` if there are differences; its message lists the first ones."""
    if found:
        shown = "; ".join(found[:NUM_NAMED]) + ("; ..." if len(found) > NUM_NAMED else "")
        raise ModelError(
            f"the sources differ in {len(found)} things outside their feed-forwards ({shown})",
            remedy="merge fine-tunes of the feed-forwards alone, or take all else from the first with --take-first",
        )


def _different_files(first: SourceCheckpoint, other: SourceCheckpoint) -> Iterator[str]:
    for name in COMPANION_FILES:
        if name in VOCABULARY_FILES:
            continue
        ours, theirs = _content(first.directory / name), _content(other.directory / name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            if keys := [key for key in keys if key not in FREE_KEYS]:
                yield f"{other.name}: {name} differs in {', '.join(keys)}"
        elif ours != theirs:
            yield f"{other.name}: {name} differs"


def _content(path: Path) -> Any:
    """Return a file's JSON value, or its text if it is not JSON; None if the file does not exist."""
    if not path.is_file():
        return None
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError:
        return text


def _different_ends(first: SourceCheckpoint, other: SourceCheckpoint) -> Iterator[str]:
    for field in END_FIELDS:
        ours, theirs = getattr(first.config, field, None), getattr(other.config, field, None)
        if ours != theirs:
            yield f"{other.name}: config.json has {field} {theirs}, not {ours}"
