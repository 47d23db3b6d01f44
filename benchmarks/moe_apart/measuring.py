"""What each held-out text costs a model, and how many parameters it has; measured once, kept in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.device import choose_device
from moe_ray.files import StoredRecord, write_json
from moe_ray.fingerprint import fingerprint
from moe_ray.moe.btx.tokens import nats_by_text
from moe_ray.moe.running import load_for_construction, load_tokenizer

EXPERTS_NAME = ".mlp.experts."


class Measured(StoredRecord):
    """One model on some texts. `num_active` are the parameters that answer a token; `nats` of each text by domain."""

    num_parameters: int
    num_active: int
    nats: dict[str, list[float]]


def measure(checkpoint: Path, texts: Mapping[str, Sequence[str]], kept: Path, *, num_threads: int) -> Measured:
    """Measure a checkpoint below the folder `kept` lies in, unless these texts were measured before."""
    name = fingerprint({"checkpoint": str(checkpoint.relative_to(kept.parent)), "texts": dict(texts)})
    file = kept / f"{name[:16]}.json"
    if file.is_file():
        return Measured.model_validate_json(file.read_text(encoding="utf-8"))
    model, tokenizer = load_for_construction(checkpoint, device=choose_device(num_threads)), load_tokenizer(checkpoint)
    num_parameters, num_active = parameter_counts(model)
    measured = Measured(
        num_parameters=num_parameters,
        num_active=num_active,
        nats={name: nats_by_text(model, tokenizer, own) for name, own in texts.items()},
    )
    kept.mkdir(exist_ok=True)
    write_json(file, measured)
    return measured


def parameter_counts(model: Any) -> tuple[int, int]:
    """All parameters of a model, embeddings too, and those that answer a token."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    of_experts = sum(size for name, size in sizes.items() if EXPERTS_NAME in name)
    if not of_experts:
        return total, total
    asked = of_experts // model.config.num_experts * model.config.num_experts_per_tok
    return total, total - of_experts + asked
