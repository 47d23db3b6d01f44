"""Measures that need each token's experts: pairs of experts, pairs of layers, and classes given the token.

Shapes: T tokens, K selected experts, E experts, C classes.
"""

# ruff: noqa: N803 - capital suffixes name the axes of an array

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moe_ray.arrays import FloatArray, IntArray
from moe_ray.fingerprint import fingerprint
from moe_ray.specialisation import information as info
from moe_ray.specialisation.measures import Classes, MeasuredValue, number_or_none
from moe_ray.specialisation.records import UNKNOWN_TOKEN, Trace

NUM_SHUFFLES = 99
NUM_BLOCKS = 20
TOKENS_SHUFFLED = "tokens shuffled within texts"
RANKS_SHUFFLED = "ranks shuffled within texts"
LABELS_BY_TOKEN = "labels permuted over the texts that hold the token, token by token"

TokenExperts = np.ndarray[Any, np.dtype[np.int16]]


def measure_sequences(trace: Trace, classes: Classes) -> list[MeasuredValue]:
    """Return the measures of a trace with tokens; none without."""
    if not trace.tokens:
        return []
    values = [value for at in range(len(trace.layers)) for value in co_activation(trace, at)]
    for at in range(len(trace.layers) - 1):
        values.append(cross_layer(trace, at, at + 1))
    are_known = all((tokens.token_ids != UNKNOWN_TOKEN).all() for tokens in trace.tokens)
    if len(classes.names) >= 2 and are_known:
        values += [conditional_information(trace, at, classes) for at in range(len(trace.layers))]
    return values


def pair_counts(experts_TK: TokenExperts, num_experts: int) -> FloatArray:
    """Return how many tokens selected both of each two experts [E, E]; the diagonal is 0."""
    counts = np.zeros((num_experts, num_experts))
    for a in range(experts_TK.shape[1]):
        for b in range(a + 1, experts_TK.shape[1]):
            one, two = experts_TK[:, a], experts_TK[:, b]
            used = (one >= 0) & (two >= 0) & (one != two)
            np.add.at(counts, (one[used], two[used]), 1)
    return counts + counts.T


def co_activation(trace: Trace, at: int) -> Iterator[MeasuredValue]:
    """Yield log2 lift of each pair of experts, P(both) over what chance gives, with add-1/2 counts.

    Chance keeps how often each expert is at each rank in each text, and pairs tokens at random; pairs of one expert
    with itself cannot occur and are left out. Equal routers would give (K - 1) / (E - 1) for P(j given i). The value is
    the log2 ratio to the mean of that null, which is 0 by construction; `null_low` and `null_high` hold 95 % of it.
    """
    record = trace.layers[at].record
    if record.top_k < 2:
        return
    texts = [tokens.experts[:, at, : record.top_k] for tokens in trace.tokens]
    counted = pair_counts(np.concatenate(texts), record.num_experts)
    rng = _random("co-activation", record.layer, len(texts))
    drawn = np.stack(
        [_shares_of_pairs(pair_counts(_ranks_shuffled(rng, texts), record.num_experts)) for _ in range(NUM_SHUFFLES)]
    )
    mean = drawn.mean(axis=0)
    ratio, nulls = np.log2(_shares_of_pairs(counted) / mean), np.log2(drawn / mean)
    low, high = np.quantile(nulls, [0.025, 0.975], axis=0)
    for a, b in zip(*np.triu_indices(record.num_experts, k=1), strict=True):
        value = number_or_none(ratio[a, b])
        yield MeasuredValue(
            measure="co_activation",
            unit="log2 ratio",
            layer=record.layer,
            expert=int(a),
            other=str(b),
            value=value,
            null=RANKS_SHUFFLED,
            null_mean=0.0,
            null_low=number_or_none(low[a, b]),
            null_high=number_or_none(high[a, b]),
            excess=value,
        )


def _shares_of_pairs(counts_EE: FloatArray) -> FloatArray:
    added = counts_EE + 0.5
    shares: FloatArray = added / added[np.triu_indices(len(added), k=1)].sum()
    return shares


def _ranks_shuffled(rng: np.random.Generator, texts: Sequence[TokenExperts]) -> TokenExperts:
    return np.concatenate([rng.permuted(text, axis=0) for text in texts])


def _random(purpose: str, layer: int, num_texts: int) -> np.random.Generator:
    seed = int(fingerprint({"purpose": purpose, "layer": layer, "num_texts": num_texts}), 16)
    return np.random.Generator(np.random.PCG64(seed))


def cross_layer(trace: Trace, first: int, second: int) -> MeasuredValue:
    """Mutual information of a token's first choices in two layers, in bits.

    The null shuffles the tokens of each text in one layer: what remains there is what the text alone decides.
    """
    records = trace.layers[first].record, trace.layers[second].record
    shape = (records[0].num_experts, records[1].num_experts)
    pairs = [(tokens.experts[:, first, 0], tokens.experts[:, second, 0]) for tokens in trace.tokens]
    value = float(info.mutual_information(_joint(pairs, shape)))
    rng = _random("cross-layer", records[0].layer, len(pairs))
    drawn = np.array(
        [
            float(info.mutual_information(_joint([(rng.permutation(a), b) for a, b in pairs], shape)))
            for _ in range(NUM_SHUFFLES)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return MeasuredValue(
        measure="cross_layer_information",
        unit="bits",
        layer=records[0].layer,
        other=str(records[1].layer),
        value=value,
        null=TOKENS_SHUFFLED,
        null_mean=float(drawn.mean()),
        null_low=float(low),
        null_high=float(high),
        excess=value - float(drawn.mean()),
        p_value=float((drawn >= value).sum() + 1) / (NUM_SHUFFLES + 1),
    )


def _joint(pairs: Sequence[tuple[TokenExperts, TokenExperts]], shape: tuple[int, int]) -> FloatArray:
    one, two = np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])
    used = (one >= 0) & (two >= 0)
    counts = np.zeros(shape)
    np.add.at(counts, (one[used], two[used]), 1)
    return counts


class _TokenCells:
    """Selections by (text, token id) cell [cells, E], of tokens that at least two texts hold."""

    def __init__(self, trace: Trace, at: int, classes: Classes) -> None:
        record = trace.layers[at].record
        texts, ids, experts = [], [], []
        for text, place in enumerate(classes.places):
            tokens = trace.tokens[place]
            chosen = tokens.experts[:, at, : record.top_k]
            texts.append(np.full(chosen.size, text))
            ids.append(np.repeat(tokens.token_ids, chosen.shape[1]))
            experts.append(chosen.ravel())
        self._gather(np.concatenate(texts), np.concatenate(ids), np.concatenate(experts), record.num_experts)
        self.num_experts = record.num_experts

    def _gather(self, texts: IntArray, ids: IntArray, experts: IntArray, num_experts: int) -> None:
        used = experts >= 0
        texts, ids, experts = texts[used], ids[used], experts[used].astype(np.intp)
        keys, cell_of = np.unique(np.stack([ids, texts], axis=1), axis=0, return_inverse=True)
        counts = np.zeros((len(keys), num_experts))
        np.add.at(counts, (cell_of.ravel(), experts), 1)
        _, token_of, texts_per_token = np.unique(keys[:, 0], return_inverse=True, return_counts=True)
        shared = texts_per_token[token_of] > 1
        self.counts, self.texts = counts[shared], keys[shared, 1]
        _, self.tokens = np.unique(keys[shared, 0], return_inverse=True)

    def information(self, codes_of_cell: IntArray, num_classes: int, kept: FloatArray | None = None) -> float:
        """Mutual information of class and expert given the token, in bits: I(class; expert | token)."""
        if not len(self.counts):
            return float("nan")
        counts = self.counts if kept is None else self.counts * kept[:, None]
        table = np.zeros((self.tokens.max() + 1, num_classes, self.num_experts))
        np.add.at(table, (self.tokens, codes_of_cell), counts)
        weights = info.shares(table.sum(axis=(1, 2)))
        return float((weights * info.mutual_information(table)).sum())

    def shuffled(self, rng: np.random.Generator, codes_of_cell: IntArray) -> IntArray:
        """Return the classes of cells, permuted among the cells of each token."""
        order = np.lexsort((rng.random(len(self.tokens)), self.tokens))
        within = np.argsort(self.tokens, kind="stable")
        shuffled = codes_of_cell.copy()
        shuffled[within] = codes_of_cell[order]
        return shuffled


def conditional_information(trace: Trace, at: int, classes: Classes) -> MeasuredValue:
    """Information on the class in a selection given the token, in bits: more than vocabulary?

    Only tokens that several texts hold say anything. The null permutes the labels of the texts that hold a token, for
    each token apart, which keeps each token's number of texts per class and thus the bias of the plug-in value. The
    interval and the test are of the excess, from leaving out blocks of texts: the selections of one text are
    dependent over its tokens, which the null does not know.
    """
    record, num_classes = trace.layers[at].record, len(classes.names)
    cells = _TokenCells(trace, at, classes)
    codes = classes.codes_n[cells.texts] if len(cells.counts) else classes.codes_n[:0]
    rng = _random("conditional", record.layer, len(classes.codes_n))
    drawn = np.array([cells.information(cells.shuffled(rng, codes), num_classes) for _ in range(NUM_SHUFFLES)])
    value, mean = cells.information(codes, num_classes), float(drawn.mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    error, p_value = _blocked(cells, codes, classes, value - mean, record.layer)
    return MeasuredValue(
        measure="conditional_information",
        unit="bits",
        layer=record.layer,
        value=number_or_none(value),
        null=LABELS_BY_TOKEN,
        null_mean=number_or_none(mean),
        null_low=number_or_none(low),
        null_high=number_or_none(high),
        excess=number_or_none(value - mean),
        low=number_or_none(value - mean - error),
        high=number_or_none(value - mean + error),
        p_value=number_or_none(p_value),
    )


def _blocked(cells: _TokenCells, codes: IntArray, classes: Classes, excess: float, layer: int) -> tuple[float, float]:
    """Return half the width of the excess's 95 % interval, and the p-value that it is above 0, from blocks of texts."""
    from scipy.special import stdtr, stdtrit

    rng = _random("blocks", layer, len(classes.codes_n))
    block_of_text = np.empty(len(classes.codes_n), dtype=np.intp)
    for code in range(len(classes.names)):
        own = rng.permutation(np.flatnonzero(classes.codes_n == code))
        block_of_text[own] = np.arange(len(own)) % NUM_BLOCKS
    blocks = block_of_text[cells.texts]
    shuffled = [cells.shuffled(rng, codes) for _ in range(NUM_BLOCKS // 4)]
    without = np.array(
        [_excess(cells, codes, shuffled, len(classes.names), blocks != one) for one in range(NUM_BLOCKS)]
    )
    error = float(np.sqrt((NUM_BLOCKS - 1) / NUM_BLOCKS * ((without - without.mean()) ** 2).sum()))
    degrees = NUM_BLOCKS - 1
    p_value = float(stdtr(degrees, -excess / error)) if error > 0 else float("nan")
    return float(stdtrit(degrees, 0.975)) * error, p_value


def _excess(
    cells: _TokenCells, codes: IntArray, shuffled: Sequence[IntArray], num_classes: int, kept: np.ndarray[Any, Any]
) -> float:
    weights = kept.astype(np.float64)
    null = np.mean([cells.information(one, num_classes, weights) for one in shuffled])
    return cells.information(codes, num_classes, weights) - float(null)
