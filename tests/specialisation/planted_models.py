"""Mixtures whose truth is known: tokens are one-hot, routers are tables, and an expert knows which token follows.

Expert e answers token t with the direction of t's successor where it knows it, and with nothing elsewhere. Only what an
expert knows makes a text's tokens likely.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from moe_ray.engines.transformers.intervened import sites_of
from moe_ray.engines.transformers.likelihood import ScoringRow
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.ablation import records
from moe_ray.specialisation.ablation.measuring import AblationMeter, AblationOptions, RemovedUnit
from moe_ray.specialisation.ablation.records import AblatedUnit, Ablation, AblationPlan
from moe_ray.specialisation.ablation.scoring import ScoredText
from moe_ray.specialisation.texts import SourceText
from tests.specialisation.families import loaded

HIDDEN, NUM_EXPERTS, TOP_K = 32, 6, 2
FIRST_TOKEN, TOKENS_PER_CLASS = 3, 10
VOCABULARY_SIZE = FIRST_TOKEN + 2 * TOKENS_PER_CLASS


def tokens_of(label: int) -> list[int]:
    """The tokens of a class; each is followed by the next one, the last by the first."""
    start = FIRST_TOKEN + label * TOKENS_PER_CLASS
    return list(range(start, start + TOKENS_PER_CLASS))


def successor(token: int) -> int:
    label = (token - FIRST_TOKEN) // TOKENS_PER_CLASS
    own = tokens_of(label)
    return own[(own.index(token) + 1) % len(own)]


def planted_mixtral(
    first: Mapping[int, int],
    knows: Mapping[int, Sequence[int]],
    *,
    seed: int,
    ranked: Mapping[int, Sequence[int]] | None = None,
) -> Any:
    """A mixture in which token t's first choice is expert `first[t]`, and `knows[e]` are the tokens that e knows.

    The second choice is drawn for each token among experts 0 to 4 that are not the first one. `ranked[t]` are all
    choices of token t in their order, with almost equal scores.
    """
    rng = np.random.default_rng(seed)
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY_SIZE, hidden_size=HIDDEN, intermediate_size=HIDDEN, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=NUM_EXPERTS, num_experts_per_tok=TOP_K,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    layer: Any = model.model.layers[0]
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY_SIZE, HIDDEN))
        model.lm_head.weight.copy_(2 * torch.eye(VOCABULARY_SIZE, HIDDEN))
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.gate.weight.copy_(torch.from_numpy(_router(first, ranked or {}, rng)))
        layer.mlp.experts.gate_up_proj.copy_(torch.eye(HIDDEN).repeat(2, 1).expand(NUM_EXPERTS, -1, -1))
        layer.mlp.experts.down_proj.zero_()
        for expert, tokens in knows.items():
            for token in tokens:
                layer.mlp.experts.down_proj[expert, successor(token), token] = 0.2
    return model


def _router(first: Mapping[int, int], ranked: Mapping[int, Sequence[int]], rng: np.random.Generator) -> Any:
    scores = rng.normal(0, 0.01, (NUM_EXPERTS, HIDDEN)).astype(np.float32)
    for token in range(VOCABULARY_SIZE):
        favourite = first.get(token, 0)
        second = rng.choice([expert for expert in range(NUM_EXPERTS - 1) if expert != favourite])
        scores[favourite, token], scores[second, token] = 0.4, 0.2
        for place, expert in enumerate(ranked.get(token, ())):
            scores[expert, token] = 0.4 - 0.002 * place
    return scores


def twins_mixtral(seed: int) -> tuple[Any, tuple[int, int]]:
    """A mixture in which two experts know the same tokens of class a, and one of them follows where the other is lost.

    A helper that knows nothing is every token's second choice. Returns the twins too.
    """
    twins, helper = ((0, 1), 2) if seed % 2 else ((3, 1), 0)
    others = [expert for expert in range(NUM_EXPERTS) if expert not in (*twins, helper)]
    ranked: dict[int, list[int]] = {}
    for place, token in enumerate(tokens_of(0)):
        own, twin = twins if place % 2 else twins[::-1]
        ranked[token] = [own, helper, twin, *others] if place < 8 else [others[0], helper, *others[1:]]
    for place, token in enumerate(tokens_of(1)):
        ranked[token] = [others[place % 2], helper, others[2], others[1 - place % 2], *twins]
    first = {token: choices[0] for token, choices in ranked.items()}
    known = tokens_of(0)[:8]
    return planted_mixtral(first, dict.fromkeys(twins, known), seed=seed, ranked=ranked), twins


def random_texts(rng: np.random.Generator, num_per_class: int, *, num_tokens: int = 24) -> list[tuple[list[int], str]]:
    """Texts of both classes: mostly successors, else any token of the class; texts prefer tokens of their own."""
    texts = []
    for label in (0, 1):
        own = tokens_of(label)
        for _ in range(num_per_class):
            preferred = rng.dirichlet(np.ones(len(own)))
            row = [int(rng.choice(own, p=preferred))]
            while len(row) < num_tokens:
                row.append(successor(row[-1]) if rng.random() < 0.7 else int(rng.choice(own, p=preferred)))
            texts.append(([0, *row], "ab"[label]))
    return texts


def scored(ids: Sequence[int], label: str, text_id: str) -> ScoredText:
    """The text of these tokens; its score is minus the bits per token."""
    row = ScoringRow(
        index=0, id=text_id, token_ids=tuple(ids[:-1]), num_logits=len(ids) - 1, targets=((0, tuple(ids[1:])),)
    )
    source = SourceText(text_id=text_id, label=label, text="")
    return ScoredText(source=source, rows=(row,), counted=((True,) * (len(ids) - 1),), num_bytes=len(ids) - 1)


def ablated(
    model: Any,
    texts: Sequence[tuple[list[int], str]],
    out: Path,
    options: AblationOptions,
    *,
    together: Sequence[tuple[int, ...]] = (),
) -> Ablation:
    """Ablate each expert of each layer on the texts, by way of the files that the command writes.

    `together` are sets of experts of the first layer, in place of the single ones.
    """
    sites = sites_of(loaded(model), name="model")
    units = [RemovedUnit(expert=first, at=0, with_experts=tuple(others)) for first, *others in together] or [
        RemovedUnit(expert=expert, at=at) for at, site in enumerate(sites) for expert in range(site.record.num_experts)
    ]
    meter = AblationMeter(loaded(model), sites, units, options, name="model")
    records.begin(out, plan_of(sites, options, units))
    found = [meter.measure(scored(ids, label, f"{at:04}")) for at, (ids, label) in enumerate(texts)]
    records.write_part(out, 0, found)
    records.finish(out, 1)
    return records.read_ablation(out)


def plan_of(sites: Sequence[RoutingSite], options: AblationOptions, removed: Sequence[RemovedUnit]) -> AblationPlan:
    units = [
        AblatedUnit(layer=sites[unit.at or 0].record.layer, expert=unit.expert, with_experts=list(unit.with_experts))
        for unit in removed
    ]
    return AblationPlan(
        model="model", model_type="mixtral", model_fingerprint="0", layers=[site.record for site in sites],
        operation=options.operation, units=units, num_draws=options.num_draws, seed=options.seed,
        score="bits_per_byte", num_choices=0, settings={}, texts="0", num_parts=1,
    )  # fmt: skip
