"""A trained gate, read back from its directory."""

from dataclasses import dataclass
from pathlib import Path

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.errors import ModelError
from moe_ray.moe.merged.gate_records import GATE_FILE, GateRecord
from moe_ray.routing.embedding.gating import damaged, load_gating


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gate:
    """A gating network in evaluation mode, and what it is for."""

    network: GatingNetwork
    record: GateRecord
    directory: Path


def read_gate(directory: Path) -> Gate:
    """Read what `TrainedGate.save` wrote. Raises `ModelError` naming what is missing or damaged."""
    path = directory / GATE_FILE
    if not path.is_file():
        what = f"no gate here: {GATE_FILE} is missing" if directory.exists() else "no such directory"
        raise ModelError(what, where=str(directory), remedy="name the folder that moe-ray moe train-gate wrote")
    try:
        record = GateRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise damaged(path, error) from error
    network = load_gating(directory)
    if network.num_outputs != len(record.experts):
        raise ModelError(
            f"{len(record.experts)} experts, but weights for {network.num_outputs}",
            where=str(path),
            remedy="copy the gate's whole directory again, or train it again",
        )
    return Gate(network=network, record=record, directory=directory)
