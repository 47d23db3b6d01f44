"""The input embeddings and the tokenizer of a causal model, without the rest of it."""

import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.hub import cached_file

from moe_ray.architectures.gating_network import mean_embeddings
from moe_ray.characters import whole_characters
from moe_ray.checkpoints.files import SINGLE_FILE, open_weights, tensor_files
from moe_ray.config.schema import is_local_path
from moe_ray.engines.transformers.loading import CHECK_REMEDY, HUB_REMEDY, read_pretrained
from moe_ray.errors import ModelError, first_line
from moe_ray.hub import hub_answers

TOKENIZER_REMEDY = "put the files of the tokenizer that it was trained with beside the weights"
PICKLE = "pytorch_model.bin"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputEmbeddings:
    """A tokenizer, and `matrix` [vocabulary, H] in the checkpoint's own dtype, with a row for each of its tokens.

    Tokens that were added to it, such as an end that the model never met, may have no row.
    """

    tokenizer: Any
    matrix: torch.Tensor


def read_input_embeddings(source: str, revision: str | None, *, where: str) -> InputEmbeddings:
    """Read the tokenizer and the one tensor of the checkpoint `source`, a local folder or a hub id.

    Of weights in several files, only the one that holds the tensor is read, and only it is fetched from the hub.
    `where` is the key that names the checkpoint. Raises `ModelError`.
    """
    return _Checkpoint(source, revision, where).read()


class _Checkpoint:
    def __init__(self, source: str, revision: str | None, where: str) -> None:
        self._is_local = is_local_path(source)
        self._source = str(Path(source).expanduser()) if self._is_local else source
        self._revision = revision
        self._where = where

    def read(self) -> InputEmbeddings:
        transformers.utils.logging.disable_progress_bar()
        self._require_directory()
        tokenizer = self._tokenizer()
        names, shape = self._declared()
        matrix = self._matrix(names)
        if tuple(matrix.shape) != shape or not matrix.is_floating_point():
            found = f"{list(matrix.shape)} in {str(matrix.dtype).removeprefix('torch.')}"
            raise self._refused(f"its input embeddings are {found}, where config.json says {list(shape)}")
        if not 0 < tokenizer.vocab_size <= shape[0]:
            what = f"its tokenizer has {tokenizer.vocab_size} tokens, and it has input embeddings for {shape[0]}"
            raise self._refused(what, TOKENIZER_REMEDY)
        return InputEmbeddings(tokenizer=tokenizer, matrix=matrix)

    def _require_directory(self) -> None:
        if self._is_local and not (Path(self._source) / "config.json").is_file():
            what = "config.json is missing" if Path(self._source).is_dir() else "no such directory"
            raise self._refused(what, "name the directory that holds config.json, the weights and the tokenizer")

    def _tokenizer(self) -> Any:
        try:
            # Of a long text the beginning counts, whatever side the model's own use of the tokenizer cuts.
            return read_pretrained(transformers.AutoTokenizer, self._source, truncation_side="right", **self._origin())
        except Exception as error:
            # Parsers and the hub raise anything; the cause is kept.
            raise self._refused(f"no usable tokenizer: {first_line(error)}", TOKENIZER_REMEDY) from error

    def _config(self) -> Any:
        try:
            config = read_pretrained(transformers.AutoConfig, self._source, **self._origin())
        except Exception as error:
            # Configurations and the hub raise anything; the cause is kept.
            raise self._refused(f"no usable config.json: {first_line(error)}") from error
        if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            what = f"{config.model_type} is not a causal model"
            raise self._refused(what, "name a model that writes text, such as the baseline")
        return config

    def _declared(self) -> tuple[list[str], tuple[int, ...]]:
        """The input embeddings' names (an output layer that is tied to them bears them too) and their shape."""
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(self._config(), trust_remote_code=False)
        weight = model.get_input_embeddings().weight
        parameters = model.named_parameters(remove_duplicate=False)
        return [name for name, parameter in parameters if parameter is weight], tuple(weight.shape)

    def _matrix(self, names: Sequence[str]) -> torch.Tensor:
        try:
            for file in (SINGLE_FILE, PICKLE):
                files = self._files_of_tensors(file)
                name = _matching(names, files)
                if name is not None:
                    return self._tensor(name, files[name])
        except Exception as error:
            # safetensors, pickle and the hub raise anything; the cause is kept.
            raise self._refused(f"its weights cannot be read: {first_line(error)}") from error
        raise self._refused(f"no weights here named {' or '.join(names)}")

    def _files_of_tensors(self, file: str) -> Mapping[str, str]:
        """The weights' file that holds each tensor, of one format; none where the checkpoint is not in it."""
        path = self._fetched(file)
        if path is not None:
            return dict.fromkeys(_names(path), file)
        index = self._fetched(f"{file}.index.json")
        return tensor_files(index) if index else {}

    def _tensor(self, name: str, file: str) -> torch.Tensor:
        path = self._fetched(file)
        if path is None:
            raise FileNotFoundError(f"{file} is missing")
        return _tensor_in(path, name)

    def _fetched(self, file: str) -> Path | None:
        path = cached_file(self._source, file, _raise_exceptions_for_missing_entries=False, **self._origin())
        return Path(path) if path else None

    def _origin(self) -> dict[str, Any]:
        return {"revision": self._revision, "local_files_only": self._is_local or not hub_answers()}

    def _refused(self, what: str, remedy: str | None = None) -> ModelError:
        at = f" at revision {self._revision}" if self._revision else ""
        remedy = remedy or (CHECK_REMEDY if self._is_local else HUB_REMEDY)
        return ModelError(f"{self._source}{at}: {what}", where=self._where, remedy=remedy)


def _matching(names: Sequence[str], stored: Collection[str]) -> str | None:
    """The first of `names` that is stored: as it is, or with a prefix of the model more or less than expected.

    Checkpoints differ there: GPT-2's hold `wte.weight` for `transformer.wte.weight`, those with a vision tower hold
    `language_model.model.embed_tokens.weight` for `model.language_model.embed_tokens.weight`.
    """
    for name in names:
        tail = ".".join(name.split(".")[-2:])
        near = [key for key in stored if name.endswith(f".{key}") or key.endswith(f".{tail}")]
        if name in stored or len(near) == 1:
            return name if name in stored else near[0]
    return None


def _names(path: Path) -> list[str]:
    if path.suffix == ".bin":
        return list(_unpickled(path))
    with open_weights(path) as file:
        return list(file.keys())


def _tensor_in(path: Path, name: str) -> torch.Tensor:
    """Read one tensor of a weights' file into memory of its own, so that the rest of the file can go."""
    if path.suffix == ".bin":
        return _unpickled(path)[name].clone()
    with open_weights(path) as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _unpickled(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a pickle, which may hold nothing else; they stay on disk where its format lets them."""
    is_zip = zipfile.is_zipfile(path)
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    return tensors


# Tokens of prose have four or five characters, runs of spaces a few dozen: what is cut away would hardly ever be read.
CHARACTERS_PER_TOKEN = 32
MAX_BATCH_NUMBERS = 1 << 20  # that are looked up at once: 4 MiB in float32


def token_ids(
    tokenizer: Any, texts: Sequence[str], *, max_tokens: int, num_embeddings: int, with_special_tokens: bool = False
) -> list[list[int]]:
    """Return the first `max_tokens` tokens of each text; none of an empty one.

    The tokenizer's special tokens are put around the text only where they are wanted. Tokens that have no embedding are
    left out. Half a surrogate pair, which is no character, is read as a question mark.
    """
    if not texts:
        return []
    cut = [whole_characters(text[: max_tokens * CHARACTERS_PER_TOKEN], "?") for text in texts]
    encoded = tokenizer(
        cut,
        add_special_tokens=with_special_tokens,
        truncation=True,
        max_length=max_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [[token for token in row if token < num_embeddings] for row in encoded["input_ids"]]


def batches(rows: Sequence[list[int]], num_features: int) -> Iterator[Sequence[list[int]]]:
    """Yield the rows of token ids in their order, as many at a time as caches can hold the embeddings of, or one."""
    start, num_tokens = 0, 0
    for at, row in enumerate(rows):
        num_tokens += len(row)
        if at > start and num_tokens * num_features > MAX_BATCH_NUMBERS:
            yield rows[start:at]
            start, num_tokens = at, len(row)
    if rows:
        yield rows[start:]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask [num_rows, longest row], padded on the right with 0, which is masked."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[at, : len(row)] = 1
    return ids, mask


def mean_text_embeddings(
    embeddings: InputEmbeddings, texts: Sequence[str], *, max_tokens: int, with_special_tokens: bool = False
) -> torch.Tensor:
    """The mean embedding of each text's first tokens [num_texts, H] in float32, on the device of the embeddings."""
    matrix = embeddings.matrix
    rows = token_ids(
        embeddings.tokenizer,
        texts,
        max_tokens=max_tokens,
        num_embeddings=len(matrix),
        with_special_tokens=with_special_tokens,
    )
    means = [torch.zeros(0, matrix.shape[1], device=matrix.device)]
    for batch in batches(rows, matrix.shape[1]):
        ids, mask = padded(batch)
        means.append(mean_embeddings(matrix, ids.to(matrix.device), mask.to(matrix.device)))
    return torch.cat(means)
