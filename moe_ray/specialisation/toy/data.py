"""Texts of a toy: read, without near duplicates, and split by a hash of their ids. Needs no torch."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.errors import DataError
from moe_ray.files import write_text_atomically
from moe_ray.formatting import listed
from moe_ray.specialisation.texts import SourceText, limit_per_class, read_source_texts
from moe_ray.specialisation.toy.request import ToyConfig, ToyTextsConfig
from moe_ray.texts.cleaning import Candidate, TextSource
from moe_ray.texts.corpus import MIN_TEXTS, Shares, make_corpus, require_texts
from moe_ray.texts.labelled import LabelledText
from moe_ray.texts.similarity import normal_form

MIN_CLASSES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyData:
    """Texts to learn from and to test on, and the classes in the order of the models' logits."""

    classes: tuple[str, ...]
    train: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of texts by class and part."""
        parts = {"train": Counter(one.label for one in self.train), "test": Counter(one.label for one in self.test)}
        return {name: {part: counts[name] for part, counts in parts.items()} for name in self.classes}


def read_toy_data(config: ToyConfig) -> ToyData:
    """Read, clean and split the texts. Raises `DataError` for a missing file, and for classes with too few texts."""
    path = Path(config.texts.file)
    if not path.is_file():
        raise DataError(
            "there is no such file",
            where=f"texts.file: {path}",
            remedy="give records with text and label: --set texts.file=PATH",
        )
    texts = _classified(read_source_texts(path, label_key=config.texts.label).texts, config.texts)
    if config.texts.max_per_class is not None:
        texts = limit_per_class(texts, config.texts.max_per_class)
    names = tuple(config.texts.classes or sorted({text.label for text in texts}))
    if len(names) < MIN_CLASSES:
        raise DataError(
            f"holds {len(names)} class", where=str(path), remedy="name the column of the class with texts.label"
        )
    sources = [TextSource(name=one, label=one, use="train", limit=None, candidates=_of(texts, one)) for one in names]
    corpus = make_corpus(
        sources,
        require=lambda reports: require_texts(names, reports, minimum=MIN_TEXTS, key="texts.classes"),
        shares=Shares(test=config.test_fraction),
    )
    return ToyData(classes=names, train=corpus.splits.train, test=corpus.splits.test)


def _classified(texts: Sequence[SourceText], config: ToyTextsConfig) -> tuple[SourceText, ...]:
    """Return the texts under the names of their classes; those of no class are left out."""
    if config.classes is None:
        return tuple(texts)
    class_of = _class_of(config.classes)
    known = {text.label for text in texts}
    missing = [label for label in class_of if label not in known]
    if missing:
        raise DataError(
            f"no text has the label {missing[0]!r}",
            where="texts.classes",
            remedy=f"labels of {config.file} are {listed(sorted(known))}",
        )
    return tuple(
        SourceText(text_id=text.text_id, label=class_of[text.label], text=text.text)
        for text in texts
        if text.label in class_of
    )


def _class_of(classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, labels in classes.items():
        for label in labels:
            if label in found:
                raise DataError(
                    f"label {label!r} is in {found[label]} and in {name}",
                    where="texts.classes",
                    remedy="give each label to one class",
                )
            found[label] = name
    return found


def _of(texts: Sequence[SourceText], name: str) -> list[Candidate]:
    return [
        Candidate(
            text=LabelledText(id=text.text_id, text=text.text, label=name, source=name), form=normal_form(text.text)
        )
        for text in texts
        if text.label == name
    ]


def write_texts(path: Path, texts: Sequence[LabelledText]) -> None:
    """Write texts as `trace` and `ablate` read them, one JSON object a line, ordered by id."""
    ordered = sorted(texts, key=lambda text: text.id)
    lines = [json.dumps({"id": one.id, "text": one.text, "label": one.label}, ensure_ascii=False) for one in ordered]
    write_text_atomically(path, "".join(f"{line}\n" for line in lines))
