"""Turns a dense checkpoint into a mixture, tensor by tensor: the model is never in memory, and never half on disk."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from moe_ray.checkpoints.source import copy_companions
from moe_ray.checkpoints.tensors import TensorWriter
from moe_ray.device import visible_device
from moe_ray.engines.transformers.loading import context_length
from moe_ray.errors import DataError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.moe.gates import prompt_gates, ridge_gates
from moe_ray.moe.running import (
    ProbeTexts,
    TokenBatch,
    built_in_texts,
    load_for_construction,
    load_tokenizer,
    read_texts,
    token_batches,
)
from moe_ray.moe.upcycle.experts import Gates, random_gates
from moe_ray.moe.upcycle.plan import UpcyclePlan
from moe_ray.moe.upcycle.request import UpcycleRequest


def convert(
    plan: UpcyclePlan,
    out_dir: Path,
    *,
    gates: Gates | None = None,
    on_bytes: Callable[[int], object] | None = None,
) -> None:
    """Write the mixture of `plan` to `out_dir`: weights, configuration, tokenizer, chat template, generation settings.

    `gates` gives each layer's gate [num_experts / groups, H]; small random numbers by the seed, when there are none.
    `on_bytes` receives the size of each tensor after it is written. At most one tensor of the mixture and one dense
    network are in memory. `out_dir` must be missing or empty; it is written atomically.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    settings = plan.recipe.settings
    made = gates or random_gates(settings.num_networks, int(plan.config.hidden_size), settings.seed)
    write_directory_atomically(out_dir, lambda directory: _write(plan, directory, made, on_bytes))


def _write(plan: UpcyclePlan, directory: Path, gates: Gates, on_bytes: Callable[[int], object] | None) -> None:
    writer = TensorWriter(directory, plan.recipe.settings.max_shard_bytes)
    try:
        for piece in plan.recipe.pieces(gates):
            writer.add(piece.name, piece.tensor)
            if on_bytes is not None:
                on_bytes(piece.tensor.nbytes)
        writer.finish()
    finally:
        writer.close()
    copy_companions(plan.recipe.source, directory)
    plan.config.save_pretrained(directory)


RANDOM_SCALE = 0.02


class Dense:
    """The model that is upcycled, loaded in float32 when it is first asked for, and the texts of `request`."""

    def __init__(self, directory: Path, request: UpcycleRequest, texts: ProbeTexts) -> None:
        self.directory, self.texts = directory, texts
        self._request = request

    @cached_property
    def model(self) -> Any:
        return load_for_construction(self.directory, device=visible_device())

    @property
    def device(self) -> str:
        return str(self.model.device)

    @cached_property
    def batches(self) -> list[TokenBatch]:
        """What the mixture is tested on: the first tokens of the texts."""
        return self._batches(max_tokens=self._request.max_tokens)

    def labelled_batches(self) -> list[TokenBatch]:
        """All texts, with the experts that they are of."""
        return self._batches(labels=self.texts.labels)

    def _batches(self, **chosen: Any) -> list[TokenBatch]:
        positions = context_length(self.model.config)
        asked = self._request.max_text_tokens
        return token_batches(
            load_tokenizer(self.directory),
            self.texts.texts,
            vocabulary_size=int(self.model.config.vocab_size),
            max_text_tokens=asked if positions is None else min(asked, positions),
            **chosen,
        )


def with_texts(request: UpcycleRequest) -> tuple[UpcycleRequest, ProbeTexts]:
    """Read the texts, and note in the request which file it was.

    Raises `DataError` when it is another file than the request says, or has not as many experts as gates need.
    """
    if request.texts is None:
        return request, built_in_texts()
    path = Path(request.texts).expanduser().absolute()
    texts, found = read_texts(path), file_sha256(path)
    if request.texts_sha256 not in (None, found):
        raise DataError("is not the file that was used", where=request.texts, remedy="name the file that was")
    num_experts = request.settings().num_networks
    if request.gate.init != "random" and len(texts.experts) != num_experts:
        raise DataError(
            f"has texts of {len(texts.experts)} experts, where gates need {num_experts}",
            where=request.texts,
            remedy="name the expert of each text, as many experts as the mixture has (num_experts / groups)",
        )
    return request.model_copy(update={"texts": str(path), "texts_sha256": found}), texts


def make_gates(dense: Dense, request: UpcycleRequest, layers: tuple[int, ...], width: int) -> Gates:
    """Return the gates that `request` asks for, [number of networks, width] for each of the layers."""
    wanted, num_experts = request.gate, request.settings().num_networks
    if wanted.init == "random":
        return random_gates(num_experts, width, request.seed, wanted.scale or RANDOM_SCALE)
    batches, scale = dense.labelled_batches(), wanted.scale or 1.0
    if wanted.init == "prompts":
        return prompt_gates(dense.model, batches, layers, num_experts=num_experts, scale=scale).__getitem__
    found = ridge_gates(dense.model, batches, layers, num_experts=num_experts, penalty=wanted.penalty, scale=scale)
    return found.__getitem__
