"""Convert a dense checkpoint to a mixture tensor by tensor, without loading the model; texts and gates of a request."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from moe_ray.checkpoints.source import copy_companions
from moe_ray.checkpoints.tensors import write_tensors
from moe_ray.device import visible_device
from moe_ray.engines.transformers.loading import context_length
from moe_ray.errors import DataError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.fingerprint import file_sha256
from moe_ray.moe.gates import fitted_gates
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
    on_bytes: Callable[[int], object] = lambda _: None,
) -> None:
    """Write the mixture of `plan` to `out_dir`: weights, configuration, tokenizer, chat template, generation settings.

    `gates` returns a layer's gate [num_experts / groups, H]; by default small random numbers from the seed.
    `on_bytes` receives the size of each tensor after it is written. At most one tensor of the mixture and one dense
    network are in memory. `out_dir` must be missing or empty; it is written atomically.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    settings = plan.recipe.settings
    made = gates or random_gates(settings.num_networks, int(plan.config.hidden_size), settings.seed)
    write_directory_atomically(out_dir, lambda directory: write_mixture(plan, directory, made, on_bytes))


def write_mixture(
    plan: UpcyclePlan, directory: Path, gates: Gates, on_bytes: Callable[[int], object] = lambda _: None
) -> None:
    """Write the mixture of `plan` with `gates` into an empty `directory`; not atomic."""
    tensors = ((piece.name, piece.tensor) for piece in plan.recipe.pieces(gates))
    write_tensors(directory, tensors, max_shard_bytes=plan.recipe.settings.max_shard_bytes, on_bytes=on_bytes)
    copy_companions(plan.recipe.source, directory)
    plan.config.save_pretrained(directory)


RANDOM_SCALE = 0.02


class Dense:
    """The dense model, loaded in float32 at first use, and the texts of `request`."""

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
        """The first tokens of the texts, for the tests."""
        return self._batches(max_tokens=self._request.max_tokens)

    def labelled_batches(self) -> list[TokenBatch]:
        """Return all texts with their experts as labels."""
        return self._batches(labels=self.texts.labels)

    def _batches(self, **chosen: Any) -> list[TokenBatch]:
        positions = context_length(self.model.config)
        limit = self._request.max_text_tokens
        return token_batches(
            load_tokenizer(self.directory),
            self.texts.texts,
            vocabulary_size=int(self.model.config.vocab_size),
            max_text_tokens=limit if positions is None else min(limit, positions),
            **chosen,
        )


def with_texts(request: UpcycleRequest) -> tuple[UpcycleRequest, ProbeTexts]:
    """Read the texts, and return them with a request that has the file's absolute path and hash.

    Raises `DataError` if the file's hash differs from the request's, or if it lacks experts that gates need.
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
    """Return the gates of `request`, [number of networks, width] for each of the layers."""
    wanted, num_experts = request.gate, request.settings().num_networks
    if wanted.init == "random":
        return random_gates(num_experts, width, request.seed, wanted.scale or RANDOM_SCALE)
    batches, scale = dense.labelled_batches(), wanted.scale or 1.0
    made = fitted_gates(
        wanted.init, dense.model, batches, layers, num_experts=num_experts, penalty=wanted.penalty, scale=scale
    )
    return made.__getitem__
