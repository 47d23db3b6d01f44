import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe_ray.errors import DataError
from moe_ray.texts.labelled import (
    DataReport,
    LabelledText,
    RouterTexts,
    SourceReport,
    texts_fingerprint,
    write_texts_files,
)
from tests.support.old_names import with_old_names
from tests.support.router_texts import read_texts_files


def text(id_: str, label: str = "legal", words: str = "") -> LabelledText:
    return LabelledText(id=id_, text=words or f"the words of {id_}", label=label, source="set")


STRANGE = 'nul \x00, escape \x1b, \u062f\u0639\u0648\u0649, half \ud83d, line\u2028end, "quoted" \\ and\r\nlines'
TEXTS = RouterTexts(
    labels=("legal", "code", "other"),
    train=(text("legal/1"), text("code/1", "code"), text("other/s/1", "other", STRANGE)),
    validation=(text("legal/2"),),
    test=(text("code/3", "code"), text("other/s/2", "other")),
    out_of_domain={"zoo": (text("other/zoo/1", "other"),), "errands": (text("other/errands/1", "other"),)},
)
SOURCE = SourceReport(name="legal", label="legal", use="train", num_records=9, num_kept=2, dropped={"duplicate": 7})
REPORT = DataReport(sources=(SOURCE,), num_unbalanced={"legal": 0})


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    write_texts_files(tmp_path, TEXTS, REPORT)
    again = read_texts_files(tmp_path)
    assert again == TEXTS
    assert list(again.out_of_domain) == ["zoo", "errands"]
    assert texts_fingerprint(again) == texts_fingerprint(TEXTS)


def test_the_two_files_hold_all_labelled_texts_with_their_split(tmp_path: Path) -> None:
    write_texts_files(tmp_path, TEXTS, REPORT)
    train = json.loads((tmp_path / "classifier_train.json").read_text())
    test = json.loads((tmp_path / "classifier_test.json").read_text())
    assert train[0] == {
        "id": "legal/1", "text": "the words of legal/1", "label": "legal", "source": "set", "split": "train"
    }  # fmt: skip
    assert [record["split"] for record in train] == ["train"] * 3 + ["validation"]
    assert [record["split"] for record in test] == ["test"] * 2
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert report["num_texts"]["legal"] == {"train": 1, "validation": 1, "test": 0}
    assert report["out_of_domain"] == {"zoo": 1, "errands": 1}
    assert report["sources"][0]["dropped"] == {"duplicate": 7}


@pytest.mark.parametrize(
    "changed",
    [
        replace(TEXTS, train=TEXTS.train[::-1]),
        replace(TEXTS, train=TEXTS.train[:2], validation=(*TEXTS.validation, TEXTS.train[2])),
        replace(TEXTS, labels=("code", "legal", "other")),
        replace(TEXTS, out_of_domain={"zoo": TEXTS.out_of_domain["zoo"]}),
        replace(TEXTS, test=(replace(TEXTS.test[0], label="legal"), TEXTS.test[1])),
        replace(TEXTS, test=(replace(TEXTS.test[0], text="other words"), TEXTS.test[1])),
    ],
)
def test_whatever_the_router_learns_from_or_is_measured_on_changes_the_fingerprint(changed: RouterTexts) -> None:
    assert texts_fingerprint(changed) != texts_fingerprint(TEXTS)


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    write_texts_files(tmp_path, TEXTS, REPORT)
    (tmp_path / "out_of_domain").rename(tmp_path / "foreign")
    report = tmp_path / "data_report.json"
    report.write_text(json.dumps(with_old_names(json.loads(report.read_text()))))
    assert read_texts_files(tmp_path) == TEXTS


def test_an_out_of_domain_set_may_be_called_as_a_label_or_a_split_is(tmp_path: Path) -> None:
    out_of_domain = {"legal": TEXTS.out_of_domain["zoo"], "train": TEXTS.out_of_domain["errands"]}
    write_texts_files(tmp_path, replace(TEXTS, out_of_domain=out_of_domain), REPORT)
    assert read_texts_files(tmp_path) == replace(TEXTS, out_of_domain=out_of_domain)
    assert json.loads((tmp_path / "data_report.json").read_text())["num_texts"]["legal"]["train"] == 1


def test_the_name_of_a_source_does_not_change_the_fingerprint() -> None:
    assert texts_fingerprint(replace(TEXTS, validation=(replace(TEXTS.validation[0], source="elsewhere"),))) == (
        texts_fingerprint(TEXTS)
    )


def change(name: str, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        edit(value)
        (folder / name).write_text(json.dumps(value))

    return changed


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "classifier_test.json").unlink(), "classifier_test.json: no such file"),
        (lambda folder: (folder / "data_report.json").unlink(), "data_report.json: no such file"),
        (lambda folder: (folder / "out_of_domain" / "zoo.json").unlink(), "zoo.json: no such file"),
        (lambda folder: (folder / "data_report.json").write_text("[]"), "does not name labels"),
        (lambda folder: (folder / "classifier_train.json").write_text("[{"), "malformed JSON"),
        (change("data_report.json", lambda value: value.update(labels=[1])), "does not name labels"),
        (change("data_report.json", lambda value: value.pop("out_of_domain")), "does not name labels"),
        (change("classifier_train.json", lambda value: value[0].update(label="sport")), "the label 'sport'"),
        (change("classifier_train.json", lambda value: value[0].update(split="test")), "the split 'test'"),
        (change("classifier_test.json", lambda value: value[0].update(text=None)), "a record's text is missing"),
        (change("classifier_test.json", lambda value: value[0].pop("id")), "a record's id is missing"),
    ],
)
def test_a_missing_or_damaged_file_is_named(spoil: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    write_texts_files(tmp_path, TEXTS, REPORT)
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        read_texts_files(tmp_path)
    assert says in str(caught.value)
    assert "remedy:" in str(caught.value)
