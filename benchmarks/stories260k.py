"""Converts llama2.c's stories260K, a real pretrained Llama of 260,000 parameters, to a Hugging Face checkpoint.

    python -m benchmarks.stories260k stories260K.bin tok512.bin OUT

The weights file holds seven int32 (see `Header`) and then float32 tensors, one kind after the other, each for all
layers. Its query and key rows are interleaved: rotary embedding turns rows (0, 1), (2, 3), ... of a head; transformers
turns row i with row i + size / 2, so these rows are put in another order. A negative vocabulary size says that the
classifier is not the embedding.

The vocabulary file holds the length of the longest piece (int32), and then for each piece its score (float32), its
length (int32) and its bytes: a sentencepiece BPE with byte fallback, where pieces with better scores merge first.
"""

import argparse
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moe_ray.errors import ModelError

FloatArray = npt.NDArray[np.float32]

HEADER = struct.Struct("<7i")
PIECE_HEADER = struct.Struct("<fi")
LONGEST_PIECE = struct.Struct("<i")
SPECIAL_PIECES = ("<unk>", "<s>", "</s>")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
RMS_EPSILON = 1e-5
ROPE_THETA = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The shape of a model, in the order of the file's header."""

    dim: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocabulary_size: int
    max_positions: int
    is_classifier_shared: bool

    @property
    def head_size(self) -> int:
        return self.dim // self.num_heads

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the file's tensors, in its order. The tables of the rotary embedding are recomputed."""
        layers, dim, hidden = self.num_layers, self.dim, self.hidden_dim
        kv_dim = self.num_kv_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.vocabulary_size, dim),
            "attention_norm": (layers, dim),
            "query": (layers, dim, dim),
            "key": (layers, kv_dim, dim),
            "value": (layers, kv_dim, dim),
            "output": (layers, dim, dim),
            "mlp_norm": (layers, dim),
            "gate": (layers, hidden, dim),
            "down": (layers, dim, hidden),
            "up": (layers, hidden, dim),
            "final_norm": (dim,),
            "rotary_cos": (self.max_positions, self.head_size // 2),
            "rotary_sin": (self.max_positions, self.head_size // 2),
        }
        return shapes if self.is_classifier_shared else {**shapes, "classifier": (self.vocabulary_size, dim)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float


def read_weights(path: Path) -> tuple[Header, dict[str, FloatArray]]:
    """Return the header and the tensors by the names of `Header.shapes`. Raises `ModelError` on another length."""
    content = path.read_bytes()
    if len(content) < HEADER.size:
        raise ModelError(f"{len(content)} bytes are no llama2.c model", where=str(path), remedy="fetch it again")
    *sizes, vocabulary_size, max_positions = HEADER.unpack_from(content)
    names = ("dim", "hidden_dim", "num_layers", "num_heads", "num_kv_heads")
    header = Header(
        **dict(zip(names, sizes, strict=True)),
        vocabulary_size=abs(vocabulary_size),
        max_positions=max_positions,
        is_classifier_shared=vocabulary_size > 0,
    )
    num_expected = sum(int(np.prod(shape)) for shape in header.shapes.values())
    if len(content) != HEADER.size + 4 * num_expected:
        raise ModelError(
            f"{len(content)} bytes, where its header promises {HEADER.size + 4 * num_expected}",
            where=str(path),
            remedy="fetch it again",
        )
    return header, dict(_tensors(header, np.frombuffer(content, "<f4", offset=HEADER.size)))


def _tensors(header: Header, values: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    begin = 0
    for name, shape in header.shapes.items():
        end = begin + int(np.prod(shape))
        yield name, values[begin:end].reshape(shape)
        begin = end


def read_vocabulary(path: Path, size: int) -> list[Piece]:
    """Return the `size` pieces of a vocabulary file. Raises `ModelError` when it holds fewer or more."""
    content, offset, pieces = path.read_bytes(), LONGEST_PIECE.size, list[Piece]()
    try:
        for _ in range(size):
            score, num_bytes = PIECE_HEADER.unpack_from(content, offset)
            offset += PIECE_HEADER.size + num_bytes
            pieces.append(Piece(text=content[offset - num_bytes : offset].decode(), score=score))
    except (struct.error, UnicodeDecodeError) as error:
        raise ModelError(
            f"no vocabulary of {size} pieces: {error}", where=str(path), remedy="fetch it again"
        ) from error
    if offset != len(content):
        raise ModelError(f"holds more than {size} pieces", where=str(path), remedy="name the model's own vocabulary")
    return pieces


def half_split(rows: FloatArray, head_size: int) -> FloatArray:
    """Reorder the rows of each head, (rows, columns), from pairs side by side to pairs half a head apart."""
    pairs = rows.reshape(-1, head_size // 2, 2, rows.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def llama_weights(header: Header, weights: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the tensors under the names, and in the row order, of transformers' Llama."""
    named = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["final_norm"],
        "lm_head.weight": weights["embedding" if header.is_classifier_shared else "classifier"],
    }
    for layer in range(header.num_layers):
        parts = {
            "input_layernorm": weights["attention_norm"][layer],
            "self_attn.q_proj": half_split(weights["query"][layer], header.head_size),
            "self_attn.k_proj": half_split(weights["key"][layer], header.head_size),
            "self_attn.v_proj": weights["value"][layer],
            "self_attn.o_proj": weights["output"][layer],
            "post_attention_layernorm": weights["mlp_norm"][layer],
            "mlp.gate_proj": weights["gate"][layer],
            "mlp.down_proj": weights["down"][layer],
            "mlp.up_proj": weights["up"][layer],
        }
        named |= {f"model.layers.{layer}.{part}.weight": tensor for part, tensor in parts.items()}
    return named


def derived_merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return every pair of pieces whose joint text is a piece, those of the best score first.

    The pairs of one piece are next to each other. Where they differ in order from "leftmost first" (a text such as
    "aaaa" with the pieces "aa" and "aaa"), a merge by rank may cut otherwise than a merge by score.
    """
    known = {piece.text for piece in pieces}
    ranked = sorted(pieces, key=lambda piece: -piece.score)
    halves = ((piece.text[:cut], piece.text[cut:]) for piece in ranked for cut in range(1, len(piece.text)))
    return [(left, right) for left, right in halves if left in known and right in known]


def spelled(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces as Llama tokenizers spell them: the usual special tokens, and a visible sign for the space."""
    special = [Piece(text=text, score=0.0) for text in SPECIAL_PIECES]
    others = [Piece(text=piece.text.replace(" ", SPACE), score=piece.score) for piece in pieces[len(special) :]]
    return special + others


def llama_tokenizer(pieces: Sequence[Piece], max_positions: int) -> Any:
    """Return the fast tokenizer of a vocabulary; it puts <s> (id 1) in front, and </s> (id 2) ends a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    ours = spelled(pieces)
    vocabulary = {piece.text: index for index, piece in enumerate(ours)}
    unknown, begin, end = SPECIAL_PIECES
    backend = Tokenizer(
        models.BPE(vocabulary, derived_merges(ours), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL_PIECES])
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, vocabulary[begin])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=max_positions,
    )


def llama_model(header: Header, weights: dict[str, FloatArray]) -> Any:
    """Return transformers' Llama with these weights, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=header.vocabulary_size,
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.num_layers,
        num_attention_heads=header.num_heads,
        num_key_value_heads=header.num_kv_heads,
        max_position_embeddings=header.max_positions,
        rms_norm_eps=RMS_EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=header.is_classifier_shared,
        bos_token_id=SPECIAL_PIECES.index("<s>"),
        eos_token_id=SPECIAL_PIECES.index("</s>"),
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    named = llama_weights(header, weights)
    model.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in named.items()})
    return model.eval()


def convert(weights_path: Path, vocabulary_path: Path, out: Path) -> None:
    """Write the checkpoint and its tokenizer to the folder `out`."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    header, weights = read_weights(weights_path)
    pieces = read_vocabulary(vocabulary_path, header.vocabulary_size)
    llama_model(header, weights).save_pretrained(out)
    llama_tokenizer(pieces, header.max_positions).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Convert a llama2.c model to a Hugging Face Llama checkpoint.")
    parser.add_argument("weights", type=Path, help="stories260K.bin")
    parser.add_argument("vocabulary", type=Path, help="tok512.bin")
    parser.add_argument("out", type=Path, help="folder for the checkpoint")
    arguments = parser.parse_args()
    convert(arguments.weights, arguments.vocabulary, arguments.out)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
