"""A slow, plain reading of llama2.c's format: forward pass and tokenizer, without the libraries that are tested."""

import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks.stories260k import FloatArray, Header, Piece

NUM_SPECIAL = 3


def forward(header: Header, weights: dict[str, FloatArray], tokens: Sequence[int]) -> FloatArray:
    """Return the logits after each token, (tokens, vocabulary); every position is computed on its own."""
    keys = np.zeros((header.num_layers, len(tokens), header.num_kv_heads, header.head_size), np.float32)
    values = np.zeros_like(keys)
    logits = []
    for position, token in enumerate(tokens):
        hidden = weights["embedding"][token]
        for layer in range(header.num_layers):
            normed = _normed(hidden, weights["attention_norm"][layer])
            query = _heads(weights["query"][layer] @ normed, header)
            keys[layer, position] = _turned(_heads(weights["key"][layer] @ normed, header), position)
            values[layer, position] = _heads(weights["value"][layer] @ normed, header)
            seen = position + 1
            mixed = _attended(_turned(query, position), keys[layer, :seen], values[layer, :seen])
            hidden = hidden + weights["output"][layer] @ mixed
            normed = _normed(hidden, weights["mlp_norm"][layer])
            gate = weights["gate"][layer] @ normed
            inner = gate / (1 + np.exp(-gate)) * (weights["up"][layer] @ normed)
            hidden = hidden + weights["down"][layer] @ inner
        classifier = weights.get("classifier", weights["embedding"])
        logits.append(classifier @ _normed(hidden, weights["final_norm"]))
    return np.stack(logits)


def _normed(vector: FloatArray, scale: FloatArray) -> FloatArray:
    normed: FloatArray = vector / np.sqrt(np.mean(vector**2) + np.float32(1e-5)) * scale
    return normed


def _heads(vector: FloatArray, header: Header) -> FloatArray:
    return vector.reshape(-1, header.head_size)


def _turned(heads: FloatArray, position: int) -> FloatArray:
    """Rotate the neighbours (0, 1), (2, 3), ... of each head, each pair at its own speed."""
    turned = heads.copy()
    for first in range(0, heads.shape[1], 2):
        angle = position / 10_000.0 ** (first / heads.shape[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        turned[:, first] = heads[:, first] * cos - heads[:, first + 1] * sin
        turned[:, first + 1] = heads[:, first] * sin + heads[:, first + 1] * cos
    return turned


def _attended(query: FloatArray, keys: FloatArray, values: FloatArray) -> FloatArray:
    """Several query heads share one key and value head, neighbours together."""
    sharing = query.shape[0] // keys.shape[1]
    mixed = []
    for head, wanted in enumerate(query):
        raw = keys[:, head // sharing] @ wanted / np.sqrt(np.float32(query.shape[1]))
        weight = np.exp(raw - raw.max())
        mixed.append(weight / weight.sum() @ values[:, head // sharing])
    return np.concatenate(mixed)


def encode(pieces: Sequence[Piece], text: str) -> list[int]:
    """Cut `text` as llama2.c does: characters, or their bytes, and then the best-scored merge until there is none."""
    ids = {piece.text: index for index, piece in enumerate(pieces)}
    tokens = []
    for character in f" {text}" if text else "":
        tokens += [ids[character]] if character in ids else [byte + NUM_SPECIAL for byte in character.encode()]
    while True:
        joined = [ids.get(pieces[left].text + pieces[right].text) for left, right in itertools.pairwise(tokens)]
        found = [(-pieces[token].score, place, token) for place, token in enumerate(joined) if token is not None]
        if not found:
            return [1, *tokens]
        _, place, token = min(found)
        tokens[place : place + 2] = [token]
