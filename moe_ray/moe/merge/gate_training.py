"""Train a gate on the mean input embeddings of prompts, and test it on texts that it has never seen."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import torch

import moe_ray
from moe_ray.architectures.gating_network import GatingNetwork
from moe_ray.errors import DataError, ModelError
from moe_ray.files import write_directory_atomically, write_json
from moe_ray.gating.calibration import confusion_matrix, label_results, macro_f1
from moe_ray.gating.embeddings import InputEmbeddings, mean_text_embeddings, read_input_embeddings
from moe_ray.gating.fitting import Epoch, LabelledFeatures, balanced_weights, fit, fit_ridge, fit_settings, save_gating
from moe_ray.moe.merge.gate import (
    GATE_FILE,
    INFO_FILE,
    LAST_FOLDER,
    GateConfig,
    GateEpoch,
    GateRecord,
    GateResult,
    GateTrainingInfo,
)
from moe_ray.progress import Report
from moe_ray.prompts.encoder import RowError, chat_text
from moe_ray.prompts.messages import Message
from moe_ray.texts.cleaning import TextSource
from moe_ray.texts.corpus import MIN_TEXTS, Shares, Splits, make_corpus, num_left
from moe_ray.texts.labelled import LabelledText, SourceReport, codes
from moe_ray.texts.sources import free_name, labelled_source, set_name


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTexts:
    """Texts labelled with the expert that they are for. No two are the same, or nearly so.

    `held_out` are the sources that no split of the others has texts of, by name.
    """

    experts: tuple[str, ...]
    splits: Splits
    held_out: Mapping[str, tuple[LabelledText, ...]]
    sources: tuple[SourceReport, ...]


def read_gate_texts(config: GateConfig, base_dir: Path) -> GateTexts:
    """Read the texts that `config` names; relative paths are below `base_dir`.

    Raises `DataError` for a data set that cannot be read, a missing column, and an expert that fewer than
    `MIN_TEXTS` texts are left for.
    """
    corpus = make_corpus(
        _sources(config, base_dir),
        require=lambda reports: _require_enough(config.data, reports),
        shares=Shares(test=config.test_fraction, validation=config.validation_fraction),
        balance=config.balance,
    )
    return GateTexts(experts=tuple(config.data), splits=corpus.splits, held_out=corpus.apart, sources=corpus.sources)


def _sources(config: GateConfig, base_dir: Path) -> list[TextSource]:
    sources: list[TextSource] = []
    for expert, sets in config.data.items():
        for at, texts in enumerate(sets):
            name = free_name(set_name(texts), {source.name for source in sources})
            sources.append(labelled_source(name, expert, texts, f"data.{expert}.{at}", base_dir))
    return sources


def _require_enough(experts: Iterable[str], reports: Sequence[SourceReport]) -> None:
    for expert in experts:
        if (num_texts := num_left(reports, expert)) < MIN_TEXTS:
            raise DataError(
                f"{num_texts} texts are left for {expert} without duplicates; a gate needs {MIN_TEXTS}",
                where=f"data.{expert}",
                remedy="give it more texts",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainedGate:
    """A gate with the weights of its best epoch, and `last` with those of the last; None for the closed form."""

    network: GatingNetwork
    last: GatingNetwork | None
    record: GateRecord
    info: GateTrainingInfo

    def save(self, directory: Path) -> None:
        """Write the gate to `directory`, whole or not at all; a gate that is there is replaced.

        Raises `ModelError` for a directory that holds something else.
        """
        require_gate_or_nothing(directory)
        write_directory_atomically(directory, self._write)

    def _write(self, directory: Path) -> None:
        save_gating(self.network, directory)
        if self.last is not None:
            (directory / LAST_FOLDER).mkdir()
            save_gating(self.last, directory / LAST_FOLDER)
        write_json(directory / INFO_FILE, self.info)
        write_json(directory / GATE_FILE, self.record)


def require_gate_or_nothing(directory: Path) -> None:
    """Raise `ModelError` when writing a gate to `directory` would remove something else."""
    if directory.exists() and not (directory / GATE_FILE).is_file():
        if directory.is_dir() and not any(directory.iterdir()):
            return
        raise ModelError(
            "refusing to overwrite: not a gate directory",
            where=str(directory),
            remedy="name a new or empty directory",
        )


def train_gate(config: GateConfig, base_dir: Path, *, device: str, report: Report) -> TrainedGate:
    """Train the gate that `config` describes on "cpu" or "cuda", and test it. Relative paths are below `base_dir`.

    The same arguments give the same weights on the same machine. Raises what `read_gate_texts` raises, and
    `ModelError` for a base model whose input embeddings or chat template cannot be had.
    """
    texts = read_gate_texts(config, base_dir)
    embeddings = read_input_embeddings(config.base_model, config.revision, where="base_model")
    prompts = _Prompts(config, texts.experts, embeddings, device)
    started_s = time.monotonic()
    fit_of = _closed_form if config.method == "ridge" else _trained
    fitted = fit_of(config, prompts.labelled(texts.splits.train), prompts.labelled(texts.splits.validation), report)
    train_s = time.monotonic() - started_s
    record = GateRecord(
        experts=list(texts.experts),
        base_model=config.base_model,
        prompt_style=config.prompt_style,
        max_tokens=config.max_tokens,
        embeddings_sha256=tensor_sha256(embeddings.matrix),
    )
    info = _info(config, texts, prompts, fitted, train_s)
    return TrainedGate(network=fitted.network, last=fitted.last, record=record, info=info)


def tensor_sha256(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a CPU tensor's type, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Prompts:
    """Makes of texts what the merged model's gate will see of them: mean embeddings of whole prompts."""

    def __init__(self, config: GateConfig, experts: Sequence[str], embeddings: InputEmbeddings, device: str) -> None:
        self._embeddings = replace(embeddings, matrix=embeddings.matrix.to(device))
        self._experts = experts
        self._base_model = config.base_model
        self._max_tokens = config.max_tokens
        self._in_chat = config.prompt_style == "chat"
        if self._in_chat and embeddings.tokenizer.chat_template is None:
            raise ModelError(
                "prompt_style is chat, but the tokenizer has no chat template",
                where=f"base_model {config.base_model}",
                remedy="set prompt_style: completion, or name a base model that has a template",
            )

    def labelled(self, texts: Sequence[LabelledText]) -> LabelledFeatures:
        """The mean embeddings of `texts`, and the places of their experts."""
        prompts = [self._prompt(text.text) for text in texts]
        # A template writes the special tokens itself.
        means = mean_text_embeddings(
            self._embeddings, prompts, max_tokens=self._max_tokens, with_special_tokens=not self._in_chat
        )
        return LabelledFeatures(features=means, labels=torch.tensor(codes(texts, self._experts), device=means.device))

    def _prompt(self, text: str) -> str:
        if not self._in_chat:
            return text
        try:
            return chat_text(self._embeddings.tokenizer, (Message(role="user", content=text),))
        except RowError as error:
            raise DataError(
                error.reason, where=f"base_model {self._base_model}", remedy="set prompt_style: completion"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fitted:
    network: GatingNetwork
    last: GatingNetwork | None = None
    history: Sequence[Epoch] = ()
    best_epoch: int | None = None
    temperature: float | None = None


def _trained(config: GateConfig, train: LabelledFeatures, validation: LabelledFeatures, report: Report) -> _Fitted:
    num_experts = len(config.data)
    weights = balanced_weights(train.labels, num_experts) if config.balance == "weighted" else None
    fitted = fit(train, validation, num_experts, fit_settings(config), label_weights=weights, report=report)
    return _Fitted(network=fitted.network, last=fitted.last, history=fitted.epochs, best_epoch=fitted.best_epoch)


def _closed_form(config: GateConfig, train: LabelledFeatures, validation: LabelledFeatures, _: Report) -> _Fitted:
    network, temperature = fit_ridge(train, validation, len(config.data), strength=config.ridge_strength)
    return _Fitted(network=network, temperature=temperature)


def _info(config: GateConfig, texts: GateTexts, prompts: _Prompts, fitted: _Fitted, train_s: float) -> GateTrainingInfo:
    def result(part: Sequence[LabelledText]) -> GateResult:
        return _result(fitted.network, prompts.labelled(part), texts.experts)

    held_out = {name: part for name, part in texts.held_out.items() if part}
    return GateTrainingInfo(
        moe_ray_version=moe_ray.__version__,
        settings=config.model_dump(mode="json"),
        num_texts=_num_texts(texts),
        sources=[asdict(source) for source in texts.sources],
        history=[GateEpoch(epoch=number, **asdict(epoch)) for number, epoch in enumerate(fitted.history, start=1)],
        best_epoch=fitted.best_epoch,
        temperature=fitted.temperature,
        validation=result(texts.splits.validation),
        test=result(texts.splits.test),
        held_out=result(list(chain.from_iterable(held_out.values()))) if held_out else None,
        held_out_accuracy={name: result(part).accuracy for name, part in held_out.items()},
        train_s=train_s,
    )


def _num_texts(texts: GateTexts) -> dict[str, dict[str, int]]:
    parts = {**texts.splits._asdict(), "held_out": list(chain.from_iterable(texts.held_out.values()))}
    counts = {name: Counter(text.label for text in part) for name, part in parts.items()}
    return {name: {expert: count[expert] for expert in texts.experts} for name, count in counts.items()}


def _result(network: GatingNetwork, rows: LabelledFeatures, experts: Sequence[str]) -> GateResult:
    with torch.inference_mode():
        probabilities = network(rows.features).softmax(dim=1).cpu().numpy()
    gold, chosen = rows.labels.cpu().numpy(), probabilities.argmax(axis=1)
    confusion = confusion_matrix(gold, chosen, len(experts))
    return GateResult(
        n=len(gold),
        accuracy=float((gold == chosen).mean()),
        macro_f1=macro_f1(confusion),
        mean_confidence=float(probabilities.max(axis=1).mean()),
        per_expert=label_results(experts, confusion),
        confusion=confusion.tolist(),
    )
