"""Train one small mixture to classify texts. The seed decides its weights to the last bit on one kind of machine.

Shapes: B rows, T tokens, N = B x T, C classes, E experts.
"""

# ruff: noqa: N806 - capital suffixes name the axes of a tensor

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_ray.architectures.experts import load_balancing_loss
from moe_ray.engines.transformers.classifying import new_classifier
from moe_ray.mixtures.sites import RoutingSite, find_sites, scores_in
from moe_ray.moe.btx.training import MAX_GRADIENT_NORM, learning_rate_share
from moe_ray.specialisation.toy.data import ToyData
from moe_ray.specialisation.toy.request import ToyConfig

WARMUP_FRACTION = 0.1
NUM_PROBE_TOKENS = 32
MIN_PROBABILITY = 1e-9


class ToyTrainer:
    """A model in training, and its texts as token ids."""

    def __init__(self, config: ToyConfig, data: ToyData, tokenizer: Any, *, seed: int) -> None:
        self._config, self._seed, self._pad = config, seed, int(tokenizer.pad_token_id)
        fields = config.model.fields(max_tokens=config.max_tokens)
        self.model = new_classifier(config.model.kind, fields, data.classes, tokenizer, seed=seed)
        probe = torch.arange(NUM_PROBE_TOKENS)[None] % len(tokenizer)
        self._sites = find_sites(self.model.eval(), lambda: self.model(input_ids=probe), name=config.model.kind)
        texts = [text.text for text in data.train]
        self._rows: list[list[int]] = [ids[: config.max_tokens] for ids in tokenizer(texts, verbose=False)["input_ids"]]
        self._codes = [data.classes.index(text.label) for text in data.train]

    def train(self, on_epoch: Callable[[float], object]) -> int:
        """Train all epochs; `on_epoch` receives the mean loss of each. Returns the number of steps."""
        settings = self._config.training
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        torch.manual_seed(self._seed)
        self.model.train()
        step, num_steps = 0, settings.epochs * len(self._batches(0))
        for epoch in range(settings.epochs):
            losses = []
            for places in self._batches(epoch):
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * learning_rate_share(step, num_steps, WARMUP_FRACTION)
                loss = self._loss(places)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(float(loss.detach()))
                step += 1
            on_epoch(sum(losses) / len(losses))
        self.model.eval()
        return step

    def _batches(self, epoch: int) -> list[list[int]]:
        order = random.Random(f"{self._seed}:{epoch}").sample(range(len(self._rows)), len(self._rows))
        size = self._config.training.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _loss(self, places: Sequence[int]) -> Tensor:
        ids_BT, mask_BT = _padded([self._rows[place] for place in places], self._pad)
        codes_B = torch.tensor([self._codes[place] for place in places])
        with _gate_outputs(self._sites) as outputs:
            logits_BC = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits
        loss = F.cross_entropy(logits_BC, codes_B)
        if not self._config.training.balancing:
            return loss
        flat_N = mask_BT.reshape(-1)
        balancing = [
            load_balancing_loss(_logits(site, output, len(flat_N)), site.record.top_k, flat_N)
            for site, output in zip(self._sites, outputs, strict=True)
        ]
        return loss + self._config.training.balancing * torch.stack(balancing).mean()


def _padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, T] with padding in front, as the engine reads them."""
    width = max(len(row) for row in rows)
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


@contextmanager
def _gate_outputs(sites: Sequence[RoutingSite]) -> Iterator[list[Any]]:
    """Collect what the routers return in the pass of the context, with its gradients."""
    outputs: list[Any] = []
    handles = [
        site.router.register_forward_hook(lambda _module, _given, output: outputs.append(output))
        for site in sites
        if site.router is not None
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _logits(site: RoutingSite, output: Any, num_tokens: int) -> Tensor:
    """Return a router's logits [N, E]; probabilities become logits that give the same softmax."""
    tensors = [one for one in output if isinstance(one, Tensor)] if isinstance(output, tuple) else [output]
    scores = scores_in(tensors, num_tokens, site.record.num_experts)
    assert scores is not None
    return scores.clamp(min=MIN_PROBABILITY).log() if site.record.scores == "probabilities" else scores


def save_toy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the checkpoint in transformers' layout, with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
