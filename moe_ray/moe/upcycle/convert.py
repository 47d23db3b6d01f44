"""Turns a dense checkpoint into a mixture, tensor by tensor: the model is never in memory, and never half on disk."""

from collections.abc import Callable
from pathlib import Path

from moe_ray.atomic import write_directory_atomically
from moe_ray.moe.places import require_free, require_space
from moe_ray.moe.source import copy_companions
from moe_ray.moe.tensors import TensorWriter
from moe_ray.moe.upcycle.experts import Gates, random_gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.settings import UpcycleSettings


def upcycle(
    model_dir: Path,
    out_dir: Path,
    settings: UpcycleSettings,
    *,
    gates: Gates | None = None,
    told: Callable[[int], object] | None = None,
) -> UpcyclePlan:
    """Make a mixture of the dense checkpoint in `model_dir` at `out_dir`, and return what was planned and done.

    Raises `ConfigError` and `ModelError` before anything is written; see `plan_upcycle` and `convert`.
    """
    plan = plan_upcycle(model_dir, settings)
    convert(plan, out_dir, gates=gates, told=told)
    return plan


def convert(
    plan: UpcyclePlan,
    out_dir: Path,
    *,
    gates: Gates | None = None,
    told: Callable[[int], object] | None = None,
) -> None:
    """Write the mixture of `plan` to `out_dir`: weights, configuration, tokenizer, chat template, generation settings.

    `gates` gives each layer's gate [num_experts / groups, H]; small random numbers by the seed, when there are none.
    `told` gets the bytes of each tensor as it is written. At most one tensor of the mixture and one dense network are
    held. `out_dir` must not be there, or be empty; it appears whole at the end, and an interruption leaves nothing.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    settings = plan.recipe.settings
    made = gates or random_gates(settings.num_networks, int(plan.config.hidden_size), settings.seed)
    write_directory_atomically(out_dir, lambda directory: _write(plan, directory, made, told))


def _write(plan: UpcyclePlan, directory: Path, gates: Gates, told: Callable[[int], object] | None) -> None:
    writer = TensorWriter(directory, plan.recipe.settings.max_shard_bytes)
    try:
        for piece in plan.recipe.pieces(gates):
            writer.add(piece.name, piece.tensor)
            if told is not None:
                told(piece.tensor.nbytes)
        writer.finish()
    finally:
        writer.close()
    copy_companions(plan.recipe.source, directory)
    plan.config.save_pretrained(directory)
