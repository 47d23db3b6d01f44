"""Similarities of the experts of a layer: of their weights, and of their answers to the same tokens.

Shapes: M sampled tokens, H hidden size, E experts.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from moe_ray.arrays import FloatArray
from moe_ray.mixtures.sites import RoutedTokens, RoutingSite, answers_alone, on_experts
from moe_ray.specialisation.similarity import cosines, debiased_cka_matrix
from moe_ray.specialisation.tokens import EncodedText
from moe_ray.specialisation.writing import similarity_table

NUM_SAMPLED_TOKENS = 256


class ExpertSampler:
    """Keeps what the experts of each layer read at some tokens, evenly spaced over all texts, and compares them."""

    def __init__(self, sites: Sequence[RoutingSite], texts: Sequence[EncodedText]) -> None:
        self._sites = sites
        self._num_per_text = math.ceil(NUM_SAMPLED_TOKENS / len(texts))
        self._hidden: dict[str, list[Tensor]] = {site.record.module: [] for site in sites}

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample in the forward passes of the context."""
        handles = [on_experts(site.experts, self._keep(site.record.module)) for site in self._sites]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, module: str) -> Callable[[RoutedTokens], None]:
        def keep(routed: RoutedTokens) -> None:
            kept = self._hidden[module]
            num_wanted = min(self._num_per_text, NUM_SAMPLED_TOKENS - sum(len(one) for one in kept))
            if num_wanted > 0:
                places = np.linspace(0, len(routed.hidden) - 1, num_wanted + 2).round().astype(int)[1:-1]
                kept.append(routed.hidden[torch.from_numpy(places).to(routed.hidden.device)].clone())

        return keep

    def table(self) -> pa.Table:
        """Return both similarities of each pair of experts, in each layer."""
        rows: list[dict[str, Any]] = []
        for site in self._sites:
            hidden = torch.cat(self._hidden[site.record.module])
            weights = weight_cosines(site.experts, site.record.num_experts)
            outputs = debiased_cka_matrix(expert_outputs(site.experts, site.record.num_experts, hidden))
            rows += [
                {"layer": site.record.layer, "a": a, "b": b, "weights": weights[a, b], "outputs": outputs[a, b]}
                for a in range(site.record.num_experts)
                for b in range(a + 1, site.record.num_experts)
            ]
        return similarity_table(rows)


def expert_outputs(experts: Any, num_experts: int, hidden_MH: Tensor) -> list[FloatArray]:
    """Return what each expert alone answers to the same tokens: E arrays [M, H]."""
    answers = []
    for expert in range(num_experts):
        index = torch.full((len(hidden_MH),), expert, device=hidden_MH.device)
        with torch.inference_mode():
            answers.append(answers_alone(experts, hidden_MH, index).double().cpu().numpy())
    return answers


def weight_cosines(experts: nn.Module, num_experts: int) -> FloatArray:
    """Return the cosine of each two experts' weights in a row [E, E].

    It does not see that hidden units may be in another order: two equal functions can have a cosine of 0.
    """
    products = np.zeros((num_experts, num_experts))
    for parameter in experts.parameters():
        if parameter.dim() and parameter.shape[0] % num_experts == 0 and parameter.shape[0] > 0:
            rows = parameter.detach().reshape(num_experts, -1).float()
            products += (rows @ rows.T).double().cpu().numpy()
    return cosines(products)
