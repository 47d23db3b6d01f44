"""Numbers that follow from a checkpoint's configuration alone, never from the device."""

from typing import Any

BYTES_OF_DTYPE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
DEFAULT_DTYPE_BYTES = 2


def context_length(config: Any) -> int | None:
    """Return how many tokens the model can attend to; None where the configuration does not say."""
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(length) if length else None


def cache_bytes_per_token(config: Any, dtype: str) -> int:
    """Return the bytes of keys and values that one token leaves in the cache.

    `dtype` is the experiment's; "auto" means the checkpoint's. A dtype that a device forces on the model does not
    count, so that batches are the same on every device. Sliding windows are not taken into account.
    """
    text = config.get_text_config(decoder=True)
    num_heads = text.num_attention_heads
    num_cached_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    named = str(getattr(text, "dtype", None) or config.dtype) if dtype == "auto" else dtype
    num_bytes = BYTES_OF_DTYPE.get(named.removeprefix("torch."), DEFAULT_DTYPE_BYTES)
    return int(2 * text.num_hidden_layers * num_cached_heads * head_size * num_bytes)


def rope_switch_length(config: Any) -> int | None:
    """Return the length beyond which a model with "longrope" turns to other positions; None for other models.

    transformers decides it for a whole batch at once, by its longest row: rows beyond it must not have neighbours.
    """
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    named = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None)
    return int(named) if named else None
