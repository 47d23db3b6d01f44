"""The texts to trace: from a file of records, or the queries of an experiment's domains. Needs no torch."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_ray.characters import whole_characters
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.domains.example import query_of
from moe_ray.domains.loading import load_domain
from moe_ray.domains.sources import read_file, read_text
from moe_ray.errors import DataError, UserError
from moe_ray.fingerprint import fingerprint
from moe_ray.formatting import plural

TEXT_KEY = "text"
ID_KEY = "id"
CHOICES_KEY, ANSWER_KEY = "choices", "answer"
LABEL_KEYS = ("label", "class", "domain", "expert")
EXPERIMENT_SUFFIXES = (".yaml", ".yml")
FORMAT_REMEDY = (
    'give records with "text", and "label" for their class (JSON, JSONL, CSV, Parquet), a .txt with a blank line '
    "between texts, or an experiment's YAML file"
)
NUM_ID_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """A text to trace, with its class; "" is none. `text_id` comes from the data, never from a position.

    `choices` may follow the text, and the one at `answer` is right; a text without choices has -1.
    """

    text_id: str
    label: str
    text: str
    choices: tuple[str, ...] = ()
    answer: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTexts:
    """Texts ordered by id, and what was noticed in reading them."""

    texts: tuple[SourceText, ...]
    notes: tuple[str, ...] = ()


def read_source_texts(path: Path, *, label_key: str | None = None) -> SourceTexts:
    """Read the texts of a file, or the questions of an experiment's domains, with the domains as classes.

    `label_key` names the field of the class; by default it is the first of `LABEL_KEYS` that a record has. Texts
    without an id are named by a hash of class and text. A text that is there twice counts once. Raises `DataError`
    where the file is missing, malformed or empty, or where only some texts have a class.
    """
    if path.suffix in EXPERIMENT_SUFFIXES:
        return _unique(_of_experiment(load_experiment(path)), path)
    if path.suffix == ".txt":
        parts = [part.strip() for part in read_text(path).split("\n\n")]
        return _unique((_named("", part) for part in parts if part), path)
    return _unique(_of_records(read_file(path), path, label_key), path)


def _of_experiment(experiment: LoadedExperiment) -> Iterator[SourceText]:
    for name, domain in experiment.config.domains.items():
        for example in load_domain(name, domain, experiment.base_dir).examples:
            text = whole_characters(query_of(example, "question"), "?")
            yield SourceText(text_id=f"{name}/{example.id}", label=name, text=text)


def _of_records(records: Sequence[Mapping[str, Any]], path: Path, label_key: str | None) -> Iterator[SourceText]:
    if not all(isinstance(record.get(TEXT_KEY), str) for record in records):
        raise DataError(f"some records have no {TEXT_KEY!r}", where=str(path), remedy=FORMAT_REMEDY)
    key = label_key_of(records, path, label_key)
    for record in records:
        label = "" if key is None else str(record[key])
        named = _named(label, record[TEXT_KEY], record.get(ID_KEY))
        yield _with_choices(named, record, path) if record.get(CHOICES_KEY) else named


def _with_choices(text: SourceText, record: Mapping[str, Any], path: Path) -> SourceText:
    """Read what may follow the text. The right choice is the answer, or else the class."""
    given, answer = record[CHOICES_KEY], record.get(ANSWER_KEY)
    choices = [str(one) for one in given] if isinstance(given, Sequence) and not isinstance(given, str) else []
    right = text.label if answer is None else str(answer)
    if len(set(choices)) < 2 or len(set(choices)) < len(choices) or right not in choices:
        raise DataError(
            f"text {text.text_id} has the choices {choices} and the answer {right!r}",
            where=str(path),
            remedy='give "choices" as a list of different texts, and "answer" as the right one (default: the class)',
        )
    spelled = tuple(whole_characters(one, "?") for one in choices)
    return replace(text, choices=spelled, answer=choices.index(right))


def label_key_of(records: Sequence[Mapping[str, Any]], path: Path, label_key: str | None) -> str | None:
    """Return the field of the class, by default the first of `LABEL_KEYS` that a record has; None where there is none.

    Raises `DataError` where only some records have it.
    """
    key = label_key or next((key for key in LABEL_KEYS if any(record.get(key) is not None for record in records)), None)
    if key is not None:
        _require_labels([record.get(key) for record in records], key, path)
    return key


def _require_labels(labels: Sequence[object], key: str, path: Path) -> None:
    num_missing = sum(label is None for label in labels)
    if num_missing:
        what = f"{num_missing} of {len(labels)} records have no {key!r}"
        raise DataError(what, where=str(path), remedy="give every record its class, or none")


def _named(label: str, text: str, text_id: object = None) -> SourceText:
    readable = whole_characters(text, "?")
    name = fingerprint([label, readable], num_hex=NUM_ID_DIGITS) if text_id is None else str(text_id)
    return SourceText(text_id=name, label=whole_characters(label, "?"), text=readable)


def _unique(texts: Iterable[SourceText], path: Path) -> SourceTexts:
    """Return texts ordered by id. Raises `DataError` for two texts of one id."""
    found: dict[str, SourceText] = {}
    num_repeated = num_blank = 0
    for text in texts:
        if not text.text.strip():
            num_blank += 1
        elif text.text_id not in found:
            found[text.text_id] = text
        elif found[text.text_id] == text:
            num_repeated += 1
        else:
            raise DataError(
                f"two texts have the id {text.text_id}", where=str(path), remedy=f"give each text its own {ID_KEY!r}"
            )
    if not found:
        raise DataError("holds no texts", where=str(path), remedy=FORMAT_REMEDY)
    notes = [f"left out: {plural(num_repeated, 'repeated text')}"] if num_repeated else []
    notes += [f"left out: {plural(num_blank, 'blank text')}"] if num_blank else []
    return SourceTexts(texts=tuple(found[text_id] for text_id in sorted(found)), notes=tuple(notes))


def take_shard(texts: Sequence[SourceText], shard: str) -> tuple[SourceText, ...]:
    """Return the texts of shard "i/n", 1 <= i <= n, chosen by a hash of their ids. Raises `UserError`."""
    number, slash, of = shard.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UserError(f"{shard!r} is not a shard", where="--shard", remedy="give I/N, such as 1/4 to 4/4")
    wanted, num_shards = int(number) - 1, int(of)
    return tuple(text for text in texts if int(fingerprint(text.text_id), 16) % num_shards == wanted)


def limit_per_class(texts: Sequence[SourceText], max_texts: int) -> tuple[SourceText, ...]:
    """Return at most `max_texts` texts of each class, drawn by a hash of their ids, ordered by id."""
    taken: Counter[str] = Counter()
    kept = []
    for text in sorted(texts, key=lambda text: fingerprint(text.text_id)):
        taken[text.label] += 1
        if taken[text.label] <= max_texts:
            kept.append(text)
    return tuple(sorted(kept, key=lambda text: text.text_id))
