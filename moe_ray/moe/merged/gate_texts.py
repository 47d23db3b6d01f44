"""The texts that a gate is trained and tested on: cleaned and split as a router's are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.errors import DataError
from moe_ray.moe.merged.gate_config import GateConfig
from moe_ray.routing.data.cleaning import CleanSource, TextSource, clean
from moe_ray.routing.data.read import MIN_TEXTS
from moe_ray.routing.data.report import SourceReport
from moe_ray.routing.data.sources import free_name, labelled_source, set_name
from moe_ray.routing.data.splitting import Splits, downsampled, split_texts
from moe_ray.routing.texts import LabelledText


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
    cleaned = clean(_sources(config, base_dir), ())
    by_expert = {expert: _texts_for(expert, cleaned) for expert in config.data}
    _require_enough(by_expert)
    splits = split_texts(by_expert, test_fraction=config.test_fraction, validation_fraction=config.validation_fraction)
    if config.balance == "downsample":
        splits = splits._replace(train=downsampled(splits.train), validation=downsampled(splits.validation))
    return GateTexts(
        experts=tuple(config.data),
        splits=splits,
        held_out={source.report.name: source.texts for source in cleaned if source.report.use == "test"},
        sources=tuple(source.report for source in cleaned),
    )


def _sources(config: GateConfig, base_dir: Path) -> list[TextSource]:
    sources: list[TextSource] = []
    for expert, sets in config.data.items():
        for at, texts in enumerate(sets):
            name = free_name(set_name(texts), {source.name for source in sources})
            sources.append(labelled_source(name, expert, texts, f"data.{expert}.{at}", base_dir))
    return sources


def _texts_for(expert: str, cleaned: Sequence[CleanSource]) -> list[LabelledText]:
    own = [source for source in cleaned if source.report.label == expert and source.report.use == "train"]
    return [text for source in own for text in source.texts]


def _require_enough(by_expert: Mapping[str, Sequence[LabelledText]]) -> None:
    for expert, texts in by_expert.items():
        if len(texts) < MIN_TEXTS:
            raise DataError(
                f"{len(texts)} texts are left for {expert} without duplicates; a gate needs {MIN_TEXTS}",
                where=f"data.{expert}",
                remedy="give it more texts",
            )
