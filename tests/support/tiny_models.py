"""Tiny random checkpoints of the real architectures, made on the spot: 2 layers, hidden size 32, own tokenizer."""

from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

Architecture = Literal["llama", "mistral", "qwen2", "phi3", "phi3_longrope", "gpt2", "gemma2", "gemma3"]

CONTEXT_LENGTH = 128
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
WORDS = (
    "yes", "no", "maybe", "the", "a", "is", "of", "and", "question", "answer", "drug", "court", "law", "cell",
    "return", "def", "assert", "list", "sum", "contract",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def make_tiny_checkpoint(directory: Path, architecture: Architecture, seed: int = 0) -> Path:
    """Write a random checkpoint in float32 and its tokenizer into `directory`, and return it."""
    transformers.utils.logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    model = _model(architecture, len(tokenizer))
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a tokenizer that knows all bytes and some whole words, so that it reads and spells any text.

    It puts a begin token in front, as Llama's does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, PAD, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [(word[: end - 1], word[end - 1]) for end in range(2, len(word) + 1)] + [("Ġ", word)]
        for left, right in pieces:
            if left + right not in vocabulary:
                merges.append((left, right))
                vocabulary[left + right] = len(vocabulary)
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _model(architecture: Architecture, vocabulary_size: int) -> Any:
    # A wide initialisation keeps the likeliest token well ahead, so that rounding does not decide it.
    shape: dict[str, Any] = {
        "vocab_size": vocabulary_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "initializer_range": 0.5,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    grouped = {**shape, "num_key_value_heads": 2}
    gemma = {**grouped, "head_dim": 8, "sliding_window": 8, "tie_word_embeddings": False}
    match architecture:
        case "llama":
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped))
        case "mistral":
            return transformers.MistralForCausalLM(transformers.MistralConfig(**grouped, sliding_window=8))
        case "qwen2":
            return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped))
        case "phi3":
            return transformers.Phi3ForCausalLM(transformers.Phi3Config(**shape, num_key_value_heads=4))
        case "phi3_longrope":
            return transformers.Phi3ForCausalLM(_longrope_config(shape))
        case "gemma2":
            return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**gemma))
        case "gemma3":
            return transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**gemma))
        case "gpt2":
            return transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    vocab_size=vocabulary_size,
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    n_positions=CONTEXT_LENGTH,
                    initializer_range=0.5,
                    bos_token_id=0,
                    eos_token_id=1,
                )
            )


def _longrope_config(shape: dict[str, Any]) -> Any:
    """Return a configuration like Phi-3.5's: positions are stretched in texts of more than a quarter of the context."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": CONTEXT_LENGTH // 4,
    }
    return transformers.Phi3Config(
        **shape,
        num_key_value_heads=4,
        original_max_position_embeddings=CONTEXT_LENGTH // 4,
        rope_parameters=rope,
    )
