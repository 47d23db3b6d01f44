"""The encoder of a transformer router: pretrained, its architecture alone, or a full configuration."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

from moe_ray.config.schema import RouterConfig, is_local_path
from moe_ray.engines.transformers.loading import HUB_REMEDY, read_pretrained
from moe_ray.errors import ConfigError, ModelError, first_line
from moe_ray.hub import hub_answers
from moe_ray.routing.transformer.tokens import MAX_TOKENS, learn_tokenizer
from moe_ray.suggestions import suggestion

WHERE = "router.architecture"
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
LABEL_KEYS = {"id2label", "label2id", "problem_type"}  # these follow from the domains
DECODER_KEYS = {"is_decoder", "add_cross_attention", "is_encoder_decoder"}
FILE_KEYS = {"architectures", "dtype", "transformers_version"}
NOT_ASKED = LABEL_KEYS | DECODER_KEYS | FILE_KEYS


def configure(asked: dict[str, Any], tokenizer: Any) -> Any:
    """Return the configuration that `asked` describes, with the tokenizer's vocabulary and special tokens.

    Raises `ConfigError` for an unknown model type, one that is no encoder, a key that it does not have, or a value
    that it does not take.
    """
    settings = dict(asked)
    config_class = _config_class(settings.pop("model_type", None))
    keys = {key for key in (*vars(config_class()), *config_class.attribute_map) if not key.startswith("_")} - NOT_ASKED
    for key in settings.keys() - keys:
        raise _refused(f"{config_class.model_type} has no such key{suggestion(str(key), keys)}", str(key))
    try:
        config = config_class(**{**_of_tokenizer(tokenizer, keys), **settings})
    except Exception as error:
        # A configuration's own checks raise anything; the cause is kept.
        raise _refused(f"not a configuration of {config_class.model_type}: {' '.join(str(error).split())}") from error
    if config.vocab_size < len(tokenizer):
        raise _refused(
            f"{config.vocab_size}, but the tokenizer has {len(tokenizer)} tokens",
            "vocab_size",
            "leave vocab_size out: it follows from the tokenizer",
        )
    return config


def is_encoder(config_class: Any) -> bool:
    """Say whether models of this configuration class can classify a text that they read in both directions.

    What transformers knows as a causal language model, and not as a masked one, reads in one direction.
    """
    if config_class not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return False
    return config_class in MODEL_FOR_MASKED_LM_MAPPING or config_class not in MODEL_FOR_CAUSAL_LM_MAPPING


def _config_class(model_type: object) -> Any:
    known = transformers.CONFIG_MAPPING
    if model_type in known and is_encoder(known[model_type]):
        return known[model_type]
    near = suggestion(str(model_type), known) if model_type else ""
    raise _refused(
        f"model_type {model_type!r} is not an encoder that transformers can classify with{near}",
        "model_type",
        "name an encoder's type, such as distilbert, bert, roberta or modernbert",
    )


def _of_tokenizer(tokenizer: Any, keys: Collection[str]) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), **{key: getattr(tokenizer, key, None) for key in TOKEN_IDS if key in keys}}


def _refused(what: str, key: str | None = None, remedy: str | None = None) -> ConfigError:
    remedy = remedy or "see the configuration classes of transformers for the keys and their values"
    return ConfigError(what, where=f"{WHERE}.{key}" if key else WHERE, remedy=remedy)


MODEL_KEY, TOKENIZER_KEY = "router.base_model", "router.tokenizer"
DEFAULT_BASE = "distilbert-base-uncased"
LOCAL_REMEDY = "name the directory that holds config.json, the tokenizer's files and, unless from_scratch, the weights"
OFFLINE_REMEDY = f"{HUB_REMEDY}; without any weights, describe a model with router.architecture"
NUM_NAMED_KEYS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A sequence-classification model on the CPU in float32, with its tokenizer, that reads `max_tokens` at most.

    With `pretrained` all but the head comes from a checkpoint, else every weight is random.
    """

    name: str
    model: Any
    tokenizer: Any
    max_tokens: int
    pretrained: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A hub id or a local directory, and the key of the experiment that names it."""

    name: str
    revision: str | None
    key: str

    def refused(self, what: str, remedy: str | None = None) -> ModelError:
        at = f" at revision {self.revision}" if self.revision else ""
        remedy = remedy or (LOCAL_REMEDY if is_local_path(self.name) else OFFLINE_REMEDY)
        return ModelError(what, where=f"{self.key}: {self.name}{at}", remedy=remedy)

    def read(self, reader: Any, **settings: Any) -> Any:
        """Read a pretrained part. Without a network, what the hub's cache holds is taken."""
        local = is_local_path(self.name)
        needed = "config.json" if self.key == MODEL_KEY else "tokenizer_config.json"
        if local and not (Path(self.name).expanduser() / needed).is_file():
            raise self.refused(f"no such directory, or no {needed} in it")
        try:
            return read_pretrained(
                reader,
                str(Path(self.name).expanduser()) if local else self.name,
                revision=self.revision,
                local_files_only=not local and not hub_answers(),
                **settings,
            )
        except Exception as error:
            # Parsers, safetensors and the hub raise anything; the cause is kept.
            raise self.refused(f"cannot be loaded: {first_line(error)}") from error


def make_base(config: RouterConfig, labels: Sequence[str], texts: Sequence[str]) -> BaseModel:
    """Return the model to train, whose logits are of `labels` in their order. Random weights follow torch's seed.

    `texts` are those that a vocabulary is learned from where the experiment names none. Raises `ModelError` for a
    base model that cannot be had or is no encoder, `ConfigError` for settings that contradict each other.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    _require_one_base(config)
    if config.architecture is not None:
        return _described(config, config.architecture, labels, texts)
    source = _Source(name=config.base_model or DEFAULT_BASE, revision=config.revision, key=MODEL_KEY)
    model_config = source.read(transformers.AutoConfig)
    if not is_encoder(type(model_config)) or getattr(model_config, "is_decoder", False):
        raise source.refused(
            f"{model_config.model_type} is not an encoder that transformers can classify with",
            f"name an encoder, such as {DEFAULT_BASE}; a causal model serves router.kind: embedding",
        )
    tokenizer = _tokenizer(source)
    _name_labels(model_config, labels)
    model = _untrained(model_config, source.key) if config.from_scratch else _pretrained(source, model_config)
    num_rows = model.get_input_embeddings().weight.shape[0]
    if max(tokenizer.get_vocab().values()) >= num_rows:
        raise source.refused(f"its tokenizer has {len(tokenizer)} tokens, its model {num_rows}")
    return _limited(config, source.name, model, tokenizer, pretrained=not config.from_scratch)


def _require_one_base(config: RouterConfig) -> None:
    clashing = config.base_model or config.revision or config.from_scratch
    if config.architecture is not None and clashing:
        raise ConfigError(
            "architecture replaces base_model, revision and from_scratch",
            where="router.architecture",
            remedy="remove one or the other",
        )
    if config.architecture is None and config.tokenizer is not None:
        raise ConfigError(
            "a base model is read with its own tokenizer",
            where=TOKENIZER_KEY,
            remedy="remove tokenizer, or describe the model with architecture",
        )


def _described(
    config: RouterConfig, architecture: dict[str, Any], labels: Sequence[str], texts: Sequence[str]
) -> BaseModel:
    if config.tokenizer is None:
        asked = architecture.get("vocab_size")
        tokenizer = learn_tokenizer(texts, asked if isinstance(asked, int) else MAX_TOKENS)
    else:
        tokenizer = _tokenizer(_Source(name=config.tokenizer, revision=None, key=TOKENIZER_KEY))
    model_config = configure(architecture, tokenizer)
    _name_labels(model_config, labels)
    model = _untrained(model_config, "router.architecture")
    return _limited(config, f"a {model_config.model_type} from its description", model, tokenizer, pretrained=False)


def _tokenizer(source: _Source) -> Any:
    tokenizer = source.read(transformers.AutoTokenizer)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise source.refused("no usable tokenizer: its vocabulary is empty", "put the tokenizer's files beside it")
    if tokenizer.pad_token is None:
        # Padding is masked, so that any token serves.
        known = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
        tokenizer.pad_token = next(token for token in known if token is not None)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def _name_labels(model_config: Any, labels: Sequence[str]) -> None:
    model_config.id2label = dict(enumerate(labels))
    model_config.label2id = {label: at for at, label in enumerate(labels)}
    model_config.problem_type = "single_label_classification"


def _untrained(model_config: Any, key: str) -> Any:
    try:
        return transformers.AutoModelForSequenceClassification.from_config(
            model_config, dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:
        # Each architecture has its own checks; the cause is kept.
        raise ConfigError(
            f"no model can be made of this configuration: {first_line(error)}",
            where=key,
            remedy="see that its sizes fit together, such as a hidden size that the number of heads divides",
        ) from error


def _pretrained(source: _Source, model_config: Any) -> Any:
    model, info = source.read(
        transformers.AutoModelForSequenceClassification,
        config=model_config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that a head of other labels is replaced; the rest is refused below
    )
    names = [*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])]
    lacking = sorted(
        name for name in names if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name
    )
    if lacking:
        named = ", ".join(lacking[:NUM_NAMED_KEYS]) + (", ..." if len(lacking) > NUM_NAMED_KEYS else "")
        raise source.refused(f"{len(lacking)} weights are missing from the checkpoint ({named})")
    return model


def _limited(config: RouterConfig, name: str, model: Any, tokenizer: Any, *, pretrained: bool) -> BaseModel:
    """Set how many tokens of a text are read: what was asked, or by default no more than the model can."""
    asked, limit = config.training.max_tokens, min(tokenizer.model_max_length, _num_positions(model))
    if asked > limit and "max_tokens" in config.training.model_fields_set:
        raise ConfigError(
            f"{asked}, but the model reads {limit} tokens at most",
            where="router.training.max_tokens",
            remedy=f"set max_tokens to at most {limit}",
        )
    tokenizer.model_max_length = min(asked, limit)
    return BaseModel(
        name=name, model=model, tokenizer=tokenizer, max_tokens=tokenizer.model_max_length, pretrained=pretrained
    )


def _num_positions(model: Any) -> int:
    """Tokens that the model has positions for. RoBERTa's kind counts positions from the one after its padding's."""
    named = getattr(model.config, "max_position_embeddings", None) or 0
    tables = [part for path, part in model.named_modules() if path.endswith("position_embeddings")]
    offset = next((table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None), 0)
    return named - offset if named > 0 else 2**31
