"""Loading a checkpoint with transformers: the model, its tokenizer, and what the engine must know about them."""

import importlib.util
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from moe_ray import architectures
from moe_ray.architectures.shapes import cache_bytes_per_token
from moe_ray.config.schema import ModelConfig, is_local_path
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.batching import is_out_of_memory
from moe_ray.engines.transformers.mixture import forward_choice
from moe_ray.engines.transformers.spelling import TokenSpeller
from moe_ray.errors import ModelError
from moe_ray.hub import without_retries
from moe_ray.prompts.reasoning import mark_tokens, splitter_of

SHAPE_KEYS = (
    "hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim",
)  # fmt: skip


def context_length(config: Any) -> int | None:
    """Return how many tokens the model can attend to; None where the configuration does not say."""
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return int(length) if length else None


def shape_of(config: Any) -> dict[str, Any]:
    """Return a configuration's sizes and dtype under the keys of a Llama's config.json, whatever its own are called."""
    text = config.get_text_config(decoder=True)
    sizes = {name: getattr(text, name, None) for name in SHAPE_KEYS}
    return {**sizes, "dtype": getattr(text, "dtype", None) or config.dtype}


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


class OwnCodeError(ValueError):
    """The files name code of their own (`auto_map`), which was not allowed to run."""


def read_pretrained(reader: Any, place: str | Path, *, trust_remote_code: bool = False, **settings: Any) -> Any:
    """Return `reader.from_pretrained(place)`. Raises `OwnCodeError`, and whatever transformers raises.

    Left to itself, transformers asks on standard input whether it may run the code that comes with the files.
    """
    try:
        return reader.from_pretrained(place, trust_remote_code=trust_remote_code, **settings)
    except ValueError as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        what = "it needs the code that comes with it (auto_map in its JSON files), which is not run here"
        raise OwnCodeError(what) from error


CHECK_REMEDY = "check the path, the revision and that the download is complete"
HUB_REMEDY = "check the id and revision; a gated model needs `hf auth login`, no network needs a local copy"
TOKENIZER_REMEDY = "put the tokenizer's files beside the weights, or name another tokenizer with tokenizer:"
NUM_NAMED_KEYS = 3
CLASSIFIER_ENDING = "ForSequenceClassification"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model on its device, with its tokenizer.

    `eos_token_ids` are the checkpoint's end tokens (a list in the generation configuration counts whole) and the
    tokenizer's own. `pad_token_id` fills places that are masked: its value never matters. `special_token_ids` are left
    out of decoded text, except `mark_token_ids`, which spell the marks of a reasoning trace. `forward_choice` are
    arguments of every forward pass, which say what of a mixture answers.
    """

    model: Any
    tokenizer: Any
    speller: TokenSpeller
    device: torch.device
    eos_token_ids: frozenset[int]
    special_token_ids: frozenset[int]
    mark_token_ids: frozenset[int]
    pad_token_id: int
    context_length: int | None
    rope_switch_length: int | None
    cache_bytes_per_token: int
    vocabulary_size: int
    forward_arguments: frozenset[str]
    forward_choice: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerAlone:
    """A model's tokenizer and the numbers that decide how prompts fit, without its weights."""

    tokenizer: Any
    pad_token_id: int
    context_length: int | None
    vocabulary_size: int


def load_tokenizer_alone(config: ModelConfig) -> TokenizerAlone:
    """Load what turns a prompt into token ids, and no weights. Raises `ModelError`."""
    transformers.utils.logging.set_verbosity_error()
    _require_files(config)
    architectures.register()
    with without_retries():
        tokenizer = _load_tokenizer(config)
        architecture = _load_architecture(config)
    return TokenizerAlone(
        tokenizer=tokenizer,
        pad_token_id=_pad_token_id(tokenizer),
        context_length=context_length(architecture),
        vocabulary_size=int(architecture.get_text_config(decoder=True).vocab_size),
    )


def _load_architecture(config: ModelConfig) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(
            _expanded(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        # Parsers, the hub and remote code raise anything; the cause is kept.
        remedy = _loading_remedy(config, error)
        raise _refused(config, f"config.json cannot be used: {_first_line(error)}", remedy) from error


def _pad_token_id(tokenizer: Any) -> int:
    return next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)


def load(config: ModelConfig, settings: TransformersSettings, *, any_head: bool = False) -> LoadedModel:
    """Load the checkpoint onto this process's device: all GPUs it sees, or the CPU.

    On the CPU, dtype auto is the checkpoint's own, but float16 becomes float32. With `any_head` a checkpoint whose
    configuration names a sequence classifier is loaded as one (see `classifying`), else all are causal models. Raises
    `ModelError`, and `ConfigError` for an expert that the checkpoint does not have.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    quantization = _quantization(config)
    _require_files(config)
    architectures.register()
    tokenizer = _load_tokenizer(config)
    is_classifier = any_head and _names_classifier(config)
    model = _load_weights(config, settings, quantization, is_classifier=is_classifier)
    forward_arguments = frozenset(inspect.signature(model.forward).parameters)
    if not is_classifier and "past_key_values" not in forward_arguments:
        raise _refused(config, f"{type(model).__name__} has no key-value cache", "choose a decoder-only transformer")
    if is_classifier and model.config.pad_token_id is None:  # transformers finds the end of a text by it
        model.config.pad_token_id = _pad_token_id(tokenizer)
    special = _special_tokens(tokenizer)
    marks = mark_tokens(splitter_of(config).styles, list(special))
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        speller=TokenSpeller(tokenizer),
        device=model.device,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        special_token_ids=frozenset(special.values()),
        mark_token_ids=frozenset(special[token] for token in marks),
        pad_token_id=_pad_token_id(tokenizer),
        context_length=context_length(model.config),
        rope_switch_length=rope_switch_length(model.config),
        cache_bytes_per_token=cache_bytes_per_token(shape_of(model.config), config.dtype),
        vocabulary_size=int(model.get_input_embeddings().weight.shape[0]),
        forward_arguments=forward_arguments,
        forward_choice=forward_choice(model.config.to_dict(), expert=settings.expert, mode=settings.mode),
    )


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the tokens that decoding leaves out, by their spelling."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) | added


def _require_files(config: ModelConfig) -> None:
    if not is_local_path(config.path):
        return
    directory = Path(config.path).expanduser()
    if not directory.is_dir():
        raise _refused(config, "no such directory", "check the path; a hub id has no leading ./, ../, / or ~")
    if not (directory / "config.json").is_file():
        raise _refused(config, "config.json is missing", "name the directory that holds config.json and the weights")


def _load_tokenizer(config: ModelConfig) -> Any:
    source = config.tokenizer or config.path
    revision = config.revision if config.tokenizer is None else None
    try:
        tokenizer = read_pretrained(
            transformers.AutoTokenizer,
            _expanded(source),
            revision=revision,
            trust_remote_code=config.trust_remote_code,
        )
    except Exception as error:
        # Parsers, the hub and remote code raise anything; the cause is kept.
        remedy = _loading_remedy(config, error) if isinstance(error, OwnCodeError) else TOKENIZER_REMEDY
        raise _refused(config, f"no usable tokenizer: {_first_line(error)}", remedy) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise _refused(config, "no usable tokenizer: its vocabulary is empty", TOKENIZER_REMEDY)
    if config.prompt_style == "chat" and tokenizer.chat_template is None:
        raise _refused(
            config,
            "prompt_style is chat, but the tokenizer has no chat template",
            "set prompt_style: completion for this model, or name a tokenizer that has a template",
        )
    return tokenizer


def loaded_bytes(model: Any) -> int:
    """Return the bytes of a model's parameters and buffers, and of the scales that its quantized matrices keep."""
    scales = [tensor for parameter in model.parameters() for tensor in _scales(parameter)]
    return int(model.get_memory_footprint()) + sum(tensor.nbytes for tensor in scales)


def _scales(parameter: Any) -> list[torch.Tensor]:
    """The scales of a matrix of bitsandbytes, which lie beside its values (8 bits) or in its state (4 bits)."""
    found = (getattr(parameter, "SCB", None), getattr(getattr(parameter, "quant_state", None), "absmax", None))
    return [tensor for tensor in found if tensor is not None]


def _names_classifier(config: ModelConfig) -> bool:
    named = _load_architecture(config).architectures or ()
    return any(name.endswith(CLASSIFIER_ENDING) for name in named)


def _load_weights(
    config: ModelConfig, settings: TransformersSettings, quantization: Any, *, is_classifier: bool
) -> Any:
    try:
        model, info = read_pretrained(
            transformers.AutoModelForSequenceClassification if is_classifier else transformers.AutoModelForCausalLM,
            _expanded(config.path),
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=_dtype(config),
            device_map=_device_map(config),
            attn_implementation=settings.attention,
            quantization_config=quantization,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named in the info, and refused below with the missing
        )
    except Exception as error:
        # safetensors, pickle, the hub and remote code raise anything; the cause is kept.
        raise _refused(config, f"cannot be loaded: {_first_line(error)}", _loading_remedy(config, error)) from error
    _require_complete(config, info)
    if quantization is None and config.dtype == "auto" and model.device.type == "cpu" and model.dtype == torch.float16:
        model = model.float()
    return model.eval()


def _loading_remedy(config: ModelConfig, error: Exception) -> str:
    if is_out_of_memory(error):
        return "free memory, quantise the model, or give it more GPUs"
    if isinstance(error, OwnCodeError):
        return "set trust_remote_code: true for this model, if you trust the code that comes with it"
    return CHECK_REMEDY if is_local_path(config.path) else HUB_REMEDY


def _require_complete(config: ModelConfig, info: dict[str, Any]) -> None:
    """Refuse a checkpoint that left weights as they were initialised: its answers would be noise."""
    lacking = sorted(info["missing_keys"]) + sorted(str(key[0]) for key in info["mismatched_keys"])
    if lacking:
        named = ", ".join(lacking[:NUM_NAMED_KEYS]) + (", ..." if len(lacking) > NUM_NAMED_KEYS else "")
        raise _refused(config, f"{len(lacking)} weights are missing from the checkpoint ({named})", CHECK_REMEDY)
    if info["error_msgs"]:
        raise _refused(config, f"cannot be loaded: {info['error_msgs'][0]}", CHECK_REMEDY)


def _quantization(config: ModelConfig) -> Any:
    if config.quantization == "none":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise _refused(
            config, f"quantization {config.quantization} needs bitsandbytes", "pip install 'moe_ray[quantization]'"
        )
    # It warns at each call of each matrix that 8-bit products are made in float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if config.quantization == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _uses_cuda(config: ModelConfig) -> bool:
    return config.gpus != 0 and torch.cuda.is_available()


def _device_map(config: ModelConfig) -> str | dict[str, str]:
    if not _uses_cuda(config):
        return {"": "cpu"}
    return "auto" if torch.cuda.device_count() > 1 else {"": "cuda:0"}


def _dtype(config: ModelConfig) -> str | torch.dtype:
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    return "auto"


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    named = generation.eos_token_id if generation else model.config.eos_token_id
    several = named if isinstance(named, list) else [named]
    return frozenset(one for one in (*several, tokenizer.eos_token_id) if one is not None)


def _expanded(source: str) -> str:
    return str(Path(source).expanduser()) if is_local_path(source) else source


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _refused(config: ModelConfig, what: str, remedy: str) -> ModelError:
    at = f" at revision {config.revision}" if config.revision else ""
    return ModelError(what, where=f"model {config.path}{at}", remedy=remedy)
