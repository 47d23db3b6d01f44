"""A gating network's two files, gating.json and gating.safetensors."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.errors import ModelError, first_line
from moe_ray.files import read_json

SHAPE_FILE = "gating.json"
WEIGHTS_FILE = "gating.safetensors"


def save_gating(network: GatingNetwork, directory: Path) -> None:
    """Write gating.json and gating.safetensors into an existing directory."""
    shape = {
        "num_inputs": network.num_inputs,
        "num_outputs": network.num_outputs,
        "hidden_sizes": network.hidden_sizes,
        "dropout": network.dropout,
    }
    (directory / SHAPE_FILE).write_text(json.dumps(shape, indent=2) + "\n", encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, directory / WEIGHTS_FILE)


def load_gating(directory: Path, *, device: str = "cpu") -> GatingNetwork:
    """Read a saved network back, in evaluation mode. Raises `ModelError` naming the missing or damaged file."""
    path = directory / SHAPE_FILE
    try:
        network = GatingNetwork(**read_json(path))
        path = directory / WEIGHTS_FILE
        network.load_state_dict(load_file(path))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise damaged(path, error) from error
    return network.to(device).eval()


def damaged(path: Path, error: Exception) -> ModelError:
    """Return the error for a saved file that is missing or cannot be read."""
    return ModelError(
        f"missing or damaged: {first_line(error)}", where=str(path), remedy="copy its whole directory again"
    )
