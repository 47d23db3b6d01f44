"""The dense checkpoint that all experts start from: a given one, or an architecture with random weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from moe_ray.checkpoints.source import copy_companions, open_source
from moe_ray.errors import ConfigError, ModelError
from moe_ray.files import write_directory_atomically
from moe_ray.moe.btx.config import PretrainConfig
from moe_ray.moe.families import FAMILIES, family_of
from moe_ray.moe.families.own import OwnFamily
from moe_ray.moe.running import load_for_construction, load_tokenizer

DEFAULT_VOCABULARY_SIZE = 4096
END = "<|endoftext|>"


def write_base(config: PretrainConfig, texts: Sequence[str], directory: Path) -> None:
    """Write the checkpoint to `directory`, in float32, whole or not at all; what is there already stays.

    `texts` are what a vocabulary is learned from where the file names none. Raises `ConfigError` and `ModelError`.
    """
    if directory.exists():
        return
    if config.base_model is not None:
        source = open_source(Path(config.base_model))
        require_own_family(source.config.model_type, where="base_model")
        model = load_for_construction(source.directory)

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            copy_companions(source, folder)
    else:
        tokenizer = _tokenizer(config, texts)
        model = _untrained(config, tokenizer)

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    write_directory_atomically(directory, write)


def require_own_family(model_type: str, *, where: str) -> None:
    """Raise `ModelError` unless its mixtures can let one expert answer alone, as those of transformers cannot."""
    if not isinstance(family_of(model_type, where=where), OwnFamily):
        own = [name for name in FAMILIES if isinstance(family_of(name), OwnFamily)]
        raise ModelError(
            f"mixtures of {model_type} have no way to let one expert answer alone",
            where=where,
            remedy=f"take a model of {', '.join(sorted(own))}; moe-ray moe upcycle --experts models mixes fine-tunes",
        )


def _untrained(config: PretrainConfig, tokenizer: Any) -> Any:
    asked = dict(config.architecture or {})
    model_type = asked.pop("model_type", None)
    require_own_family(str(model_type), where="architecture.model_type")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    try:
        described = transformers.AutoConfig.for_model(model_type, **{**ids, **asked, "vocab_size": len(tokenizer)})
        torch.manual_seed(config.training.seed)
        return transformers.AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except Exception as error:
        # A configuration's own checks raise anything; the cause is kept.
        raise ConfigError(
            f"not a configuration of {model_type}: {' '.join(str(error).split())}",
            where="architecture",
            remedy="see the configuration classes of transformers for the keys and their values",
        ) from error


def _tokenizer(config: PretrainConfig, texts: Sequence[str]) -> Any:
    if config.tokenizer is not None:
        return load_tokenizer(Path(config.tokenizer))
    size = (config.architecture or {}).get("vocab_size", DEFAULT_VOCABULARY_SIZE)
    return learn_tokenizer(texts, size)


def learn_tokenizer(texts: Sequence[str], num_tokens: int) -> Any:
    """A byte-level vocabulary of up to `num_tokens` pieces of `texts`, and the end token; no text is lost to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, bos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )
