"""Measure what removing each expert changes in the score of a text, and what its control draws change.

A unit is what is removed at once: an expert, or several together, of one layer or of all layers. A text in which no
token selected the expert is not read again: its score cannot change.

Shapes: T tokens of a row, K selected experts, X units, R draws.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moe_ray.arrays import BoolArray, FloatArray, IntArray
from moe_ray.engines.transformers.likelihood import ScoringRow
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.errors import ModelError
from moe_ray.mixtures.intervening import SlotChoice, SlotRemoval, removing, selected
from moe_ray.mixtures.interventions import NEEDS_ROUTER, Operation
from moe_ray.mixtures.pruned_router import Reroutes
from moe_ray.mixtures.sites import RoutedTokens, RoutingSite, on_experts
from moe_ray.specialisation.ablation.controls import control_draws
from moe_ray.specialisation.ablation.records import TextChanges
from moe_ray.specialisation.ablation.scoring import ScoredText, row_reader
from moe_ray.specialisation.ablation.states import LayerStates


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedUnit:
    """An expert, of the layer at the place `at` among those with experts, or of all of them (None).

    `with_experts` are removed together with it.
    """

    expert: int
    at: int | None
    with_experts: tuple[int, ...] = ()

    @property
    def experts(self) -> frozenset[int]:
        return frozenset((self.expert, *self.with_experts))


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationOptions:
    """How experts are removed. `batch_size` variants of a text are read at once."""

    operation: Operation
    num_draws: int
    seed: int = 0
    batch_size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Routed:
    """One row as the intact model reads it: experts and weights of each layer [T, K], and log-likelihoods by place."""

    index: list[IntArray]
    weights: list[FloatArray]
    loglikelihoods: dict[int, float]


# The selections that a variant of a reading loses, layer by layer [T, K]; None: all those of the unit's expert.
Masks = Sequence[BoolArray] | None


class AblationMeter:
    """Measures texts one after the other over one loaded model. A text's numbers depend on nothing but the text.

    `means` are the mean answers of each site's experts, for the operation mean.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        sites: Sequence[RoutingSite],
        units: Sequence[RemovedUnit],
        options: AblationOptions,
        *,
        name: str,
        means: Sequence[Tensor] | None = None,
    ) -> None:
        self._sites, self._units, self._options = sites, units, options
        self._score, self._means = row_reader(loaded), means
        needs_router = options.operation in NEEDS_ROUTER
        self._reroutes = [Reroutes(site, name=name) if needs_router else None for site in sites]
        self._states = LayerStates(loaded.model, sites)
        self._states_checked = False

    def measure(self, text: ScoredText) -> TextChanges:
        """Read the text intact, without each unit, and under the unit's control draws."""
        num_variants = 1 + self._options.num_draws
        intact: dict[int, float] = {}
        outcomes: list[list[dict[int, float]]] = [[{} for _ in range(num_variants)] for _ in self._units]
        counts = np.zeros((3, len(self._units)), dtype=np.intp)
        for row, counted in zip(text.rows, text.counted, strict=True):
            routed = self._read_intact(row)
            intact |= routed.loglikelihoods
            for at, unit in enumerate(self._units):
                masks, matched = self._masks(row, routed, unit)
                num_removed = _num_selected(unit, routed, None)
                counts[:, at] += _num_selected(unit, routed, counted), num_removed, matched
                variants: list[Masks] = [None, *masks] if num_removed else []
                found = self._read_variants(row, unit, variants)
                for which in range(num_variants):
                    outcomes[at][which] |= found.get(which, routed.loglikelihoods)
        score = text.score(intact)
        scores = np.array([[text.score(one) for one in variants] for variants in outcomes])
        changes = (scores.reshape(len(self._units), num_variants) - score).astype(np.float64)
        return TextChanges(
            text_id=text.source.text_id,
            label=text.source.label,
            intact=score,
            right=text.is_right(intact),
            selected=counts[0],
            num_removed=counts[1],
            num_matched=counts[2],
            removed=changes[:, 0],
            controls=changes[:, 1:],
        )

    def _read_intact(self, row: ScoringRow) -> _Routed:
        found: list[RoutedTokens] = []
        with ExitStack() as stack:
            stack.enter_context(self._states.kept())
            for site in self._sites:
                stack.callback(on_experts(site.experts, found.append).remove)
            loglikelihoods = self._score([row])[0]
        if not self._states_checked:
            self._check_states(row, loglikelihoods)
        if any(len(routed.index) != len(row.token_ids) for routed in found):
            raise ModelError(
                f"{self._sites[0].record.module} does not read one row of tokens",
                remedy="this family packs its tokens in a way that cannot be ablated",
            )
        return _Routed(
            index=[routed.index.long().cpu().numpy().astype(np.intp) for routed in found],
            weights=[routed.weights.double().cpu().numpy() for routed in found],
            loglikelihoods=loglikelihoods,
        )

    def _check_states(self, row: ScoringRow, intact: Mapping[int, float]) -> None:
        """Read whole rows from now on if a pass that starts at the last layer is not equal to the last bit."""
        with self._states.replayed(self._sites[-1], 1):
            is_exact = self._score([row])[0] == intact
        if not is_exact:
            self._states.forget()
        self._states_checked = True

    def _sites_of(self, unit: RemovedUnit) -> list[int]:
        return list(range(len(self._sites))) if unit.at is None else [unit.at]

    def _masks(self, row: ScoringRow, routed: _Routed, unit: RemovedUnit) -> tuple[list[list[BoolArray]], int]:
        """Return each draw's masks, layer by layer of the unit, and the fewest selections that a draw found."""
        options = self._options
        draws = [
            control_draws(
                routed.index[at],
                routed.weights[at],
                np.array(row.token_ids, dtype=np.intp),
                experts=unit.experts,
                num_experts=self._sites[at].record.num_experts,
                layer=self._sites[at].record.layer,
                num_draws=options.num_draws,
                seed=options.seed,
            )
            for at in self._sites_of(unit)
        ]
        num_matched = np.sum([one.num_matched for one in draws], axis=0)
        masks = [[one.masks[draw] for one in draws] for draw in range(options.num_draws)]
        return masks, int(num_matched.min(initial=num_matched.max(initial=0)))

    def _read_variants(
        self, row: ScoringRow, unit: RemovedUnit, variants: Sequence[Masks]
    ) -> dict[int, dict[int, float]]:
        """Return log-likelihoods of the variants that differ from the intact row, by their places."""
        places = [at for at, masks in enumerate(variants) if masks is None or any(mask.any() for mask in masks)]
        found: dict[int, dict[int, float]] = {}
        for start in range(0, len(places), self._options.batch_size):
            chunk = places[start : start + self._options.batch_size]
            found.update(zip(chunk, self._read(row, unit, [variants[at] for at in chunk]), strict=True))
        return found

    def _read(self, row: ScoringRow, unit: RemovedUnit, variants: Sequence[Masks]) -> list[dict[int, float]]:
        sites = self._sites_of(unit)
        removals = [
            SlotRemoval(
                site=self._sites[at],
                operation=self._options.operation,
                slots=_slots([None if masks is None else masks[which] for masks in variants], unit.experts),
                experts=unit.experts,
                reroutes=self._reroutes[at],
                means=None if self._means is None else self._means[at],
                seed=self._options.seed,
            )
            for which, at in enumerate(sites)
        ]
        with removing(removals), self._states.replayed(self._sites[sites[0]], len(variants)):
            return self._score([row] * len(variants))


def _num_selected(unit: RemovedUnit, routed: _Routed, counted: Sequence[bool] | None) -> int:
    """Return how many selections of the row, or of its counted tokens, are the unit's."""
    layers = routed.index if unit.at is None else [routed.index[unit.at]]
    kept = slice(None) if counted is None else np.array(counted, dtype=np.bool_)
    return sum(int(np.isin(index[kept], sorted(unit.experts)).sum()) for index in layers)


def _slots(masks: Sequence[BoolArray | None], experts: frozenset[int]) -> SlotChoice:
    """Return the choice of selections in rows that are read together, one for each mask."""
    of_unit = selected(experts)

    def choose(index: Tensor) -> Tensor:
        parts = of_unit(index).reshape(len(masks), -1, index.shape[-1])
        given = [
            own if mask is None else torch.from_numpy(mask).to(index.device)
            for own, mask in zip(parts, masks, strict=True)
        ]
        return torch.stack(given).reshape(index.shape)

    return choose
