"""The texts that a gate is trained and tested on: cleaned and split as a router's are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.errors import DataError
from moe_ray.moe.merged.gate_config import GateConfig
from moe_ray.routing.data.cleaning import TextSource
from moe_ray.routing.data.corpus import Shares, make_corpus, num_left
from moe_ray.routing.data.read import MIN_TEXTS
from moe_ray.routing.data.report import SourceReport
from moe_ray.routing.data.sources import free_name, labelled_source, set_name
from moe_ray.routing.data.splitting import Splits
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
