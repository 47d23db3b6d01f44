"""What a router says of any text, and what its directory holds."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.arrays import FloatArray
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.errors import ModelError, RunDirectoryError
from moe_ray.fingerprint import file_sha256, fingerprint
from moe_ray.routing import files, tfidf
from moe_ray.routing import router as router_module
from moe_ray.routing.router import BLANK_SCORE, MAX_CHARACTERS, Router, require_domains
from moe_ray.routing.training import fit_router
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory
from tests.routing.hostile import change_json, seal
from tests.routing.queries import DOMAINS, RandomClassifier, nothing_reported, queries, router_texts
from tests.support.old_names import write_old_router

BLANK = ["", " \n\t", "\0\0", "\N{ZERO WIDTH SPACE}\N{NO-BREAK SPACE}", " " * 100_000]
ODD = [
    "lease\0contract",
    "\ud800 lease \udfff",
    "\x1b[31mlease\x07",
    "lease " * 20_000,
    "\N{PILE OF POO}" * 100_000,
    "\N{CYRILLIC CAPITAL LETTER DE}\N{CYRILLIC SMALL LETTER O}\N{CYRILLIC SMALL LETTER EM}",
    "\N{HANGUL SYLLABLE HAN}\N{HANGUL SYLLABLE GUG}",
    "\N{ARABIC LETTER ALEF}\N{ARABIC LETTER LAM}",
    "?",
]


def trained(other: bool = False, **out_of_domain: object) -> Router:
    labels = (*DOMAINS, OTHER) if other else DOMAINS
    config = RouterConfig.model_validate({"kind": "tfidf", "out_of_domain": out_of_domain})
    return fit_router(config, router_texts(labels), device="cpu", report=nothing_reported)[0]


@pytest.fixture(scope="module")
def router() -> Router:
    return trained()


@pytest.fixture(scope="module")
def saved(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("routers") / "plain"
    router.save(directory)
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copied")


ASKED = [text.text for text in queries(DOMAINS, 30, first=40_000)]


def test_probabilities_have_a_row_for_each_text_and_a_column_for_each_domain(router: Router) -> None:
    found = router.predict_proba(ASKED)
    assert found.shape == (90, 3)
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert np.mean([DOMAINS[at] for at in found.argmax(axis=1)] == np.array(list(DOMAINS) * 30)) > 0.95
    assert router.predict_proba([]).shape == (0, 3)
    assert router.route([]) == []


def test_with_out_of_domain_queries_learned_rows_lack_their_probability() -> None:
    router = trained(other=True)
    assert router.domains == DOMAINS
    assert router.labels == (*DOMAINS, OTHER)
    out_of_domain = [text.text for text in queries([OTHER], 20, first=50_000)]
    own, other = router.predict_proba(ASKED).sum(axis=1), router.predict_proba(out_of_domain).sum(axis=1)
    assert own.mean() > 0.8
    assert other.mean() < 0.2
    assert np.mean([route.is_out_of_domain for route in router.route(out_of_domain)]) > 0.9


def test_a_route_is_the_row_of_its_text_in_words(router: Router) -> None:
    rows, scores, seconds = router.judge(ASKED)
    for row, score, route in zip(rows, scores, router.route(ASKED), strict=True):
        assert list(route.probabilities) == list(DOMAINS)
        assert list(route.probabilities.values()) == row.tolist()
        assert route.domain == DOMAINS[int(row.argmax())]
        assert route.score == score
        assert route.is_out_of_domain == (score < router.threshold)
        assert route.seconds > 0
    assert (seconds > 0).all()


def test_many_texts_are_judged_in_parts_as_they_are_alone(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    together = router.judge(ASKED)
    monkeypatch.setattr(router_module, "TEXTS_AT_ONCE", 7)
    in_parts = router.judge(ASKED)
    assert (in_parts.probabilities == together.probabilities).all()
    assert (in_parts.scores == together.scores).all()


@pytest.mark.parametrize("score", ["max_probability", "energy", "mahalanobis"])
def test_a_blank_text_is_out_of_domain_by_definition_and_still_has_probabilities(score: str) -> None:
    for route in trained(score=score).route(BLANK):
        assert route.is_out_of_domain
        assert route.score == BLANK_SCORE
        assert sum(route.probabilities.values()) == pytest.approx(1.0)


def test_odd_texts_are_routed(router: Router) -> None:
    judgement = router.judge(ODD)
    assert judgement.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert np.isfinite(judgement.scores).all()
    assert (judgement.scores > BLANK_SCORE).all()


def test_control_characters_are_read_as_spaces_and_of_a_long_text_the_beginning_counts(router: Router) -> None:
    words, plain = router.predict_proba(["lease\0contract", "lease contract"])
    assert (words == plain).all()
    long = "lease " + "x" * MAX_CHARACTERS
    cut, whole = router.predict_proba([long, long + " insulin" * 100])
    assert (cut == whole).all()


@pytest.mark.parametrize(
    ("texts", "says"), [("lease", "not one str"), ([3], "text 0 is a int"), (["a", None], "text 1 is a None")]
)
def test_what_is_no_list_of_strings_is_a_type_error(router: Router, texts: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        router.predict_proba(texts)
    with pytest.raises(TypeError, match=says):
        router.route(texts)


@pytest.mark.parametrize("score", ["max_probability", "energy", "mahalanobis", "other_probability"])
def test_a_saved_router_comes_back_with_every_verdict_to_the_last_bit(tmp_path: Path, score: str) -> None:
    router = trained(other=True, score=score)
    saved = router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    asked = [*ASKED, *ODD, *BLANK]
    for found, expected in zip(loaded.judge(asked)[:2], router.judge(asked)[:2], strict=True):
        assert (found == expected).all()
    assert loaded.record == saved.record
    assert loaded.test_results == router.test_results
    assert (tmp_path / "router" / files.MAHALANOBIS_FILE).exists() == (score == "mahalanobis")
    assert [path.name for path in tmp_path.iterdir()] == ["router"], "nothing else is left behind"


def test_a_routers_fingerprint_travels_with_its_files_and_changes_with_its_weights(router: Router, saved: Path) -> None:
    assert router.fingerprint is None
    found = Router.load(saved).fingerprint
    assert found is not None
    assert router.save(saved.parent / "elsewhere").fingerprint == found
    assert trained().save(saved.parent / "same").fingerprint == found
    assert trained(keep=0.8).save(saved.parent / "other").fingerprint != found


def test_saving_replaces_a_router_whole_and_nothing_else_ever(router: Router, tmp_path: Path) -> None:
    directory = tmp_path / "router"
    trained(score="mahalanobis").save(directory)
    router.save(directory)
    assert not (directory / files.MAHALANOBIS_FILE).exists(), "the old router's files are gone"
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "thesis.txt").write_text("ten years of work")
    with pytest.raises(ModelError, match="not a router directory"):
        router.save(papers)
    assert [path.name for path in papers.iterdir()] == ["thesis.txt"]


def test_a_router_that_cannot_be_written_whole_leaves_the_old_one(
    router: Router, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in copied.iterdir()}

    def full(path: Path) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(router_module, "weights_fingerprint", full)
    with pytest.raises(OSError, match="no space left"):
        router.save(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]


def changed(**values: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / files.ROUTER_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


def removed(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


@pytest.mark.parametrize(
    ("change", "file", "says"),
    [
        (removed(files.ROUTER_FILE), files.ROUTER_FILE, "missing or damaged"),
        (written(files.ROUTER_FILE, '{"format": 1, "kind"'), files.ROUTER_FILE, "missing or damaged"),
        (written(files.ROUTER_FILE, "[1]"), files.ROUTER_FILE, "format None; this moe_ray reads format 1"),
        (changed(format=7), files.ROUTER_FILE, "format 7; this moe_ray reads format 1"),
        (changed(kind="oracle"), files.ROUTER_FILE, "no kind of router is called 'oracle'"),
        (changed(temperature="warm"), files.ROUTER_FILE, "missing or damaged"),
        *[
            (changed(**{name: value}), files.ROUTER_FILE, "missing or damaged")
            for name in ("temperature", "confident_temperature")
            for value in (float("nan"), float("inf"), 0, 0.0, -1.0, 1e-320, True, "1", [1.0])
        ],
        *[
            (changed(threshold=value), files.ROUTER_FILE, "missing or damaged")
            for value in (float("nan"), float("-inf"), None, "0.5", True, [0.5], {"legal": 0.5})
        ],
        *[
            (changed(labels=value), files.ROUTER_FILE, "missing or damaged")
            for value in (
                [],
                ["legal", "legal", "code"],
                ["legal", "", "code"],
                "legal",
                [["legal"]],
                [OTHER],
                {"a": 1},
            )
        ],
        (changed(unheard_of=1), files.ROUTER_FILE, "missing or damaged"),
        (changed(labels=["legal", "code"]), files.ROUTER_FILE, "2 labels, but weights for 3"),
        (changed(out_of_domain_score="mahalanobis"), files.MAHALANOBIS_FILE, "missing or damaged"),
        (removed(tfidf.WEIGHTS_FILE), tfidf.WEIGHTS_FILE, "missing or damaged"),
        (written(tfidf.TERMS_FILE, "{}"), tfidf.TERMS_FILE, "missing or damaged"),
        (written(files.TEST_RESULTS_FILE, "{}"), files.TEST_RESULTS_FILE, "missing or damaged"),
    ],
)
def test_a_router_that_cannot_be_read_says_which_file_is_wrong(
    copied: Path, change: Callable[[Path], object], file: str, says: str
) -> None:
    change(copied)
    with pytest.raises(ModelError, match=says) as caught:
        Router.load(copied)
    assert caught.value.where == str(copied / file)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: change_json(directory / tfidf.TERMS_FILE, max_words=1),
        lambda directory: shutil.copyfile(directory / tfidf.WEIGHTS_FILE, directory / "more.npz"),
        changed(weights="0" * 64),
        changed(weights=None),
    ],
    ids=["changed", "added", "another fingerprint", "no fingerprint"],
)
def test_files_that_are_not_those_of_the_record_are_refused(copied: Path, change: Callable[[Path], object]) -> None:
    change(copied)
    with pytest.raises(ModelError, match="not those that it was saved with") as caught:
        Router.load(copied)
    assert caught.value.where == str(copied)
    assert caught.value.remedy


def numbers(**values: np.ndarray) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / tfidf.WEIGHTS_FILE
        np.savez(path, allow_pickle=True, **{**files.read_arrays(path), **values})

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (numbers(coefficients=np.zeros((3, 5))), "coefficients must be finite numbers of shape"),
        (numbers(coefficients=np.zeros(3)), "coefficients must be finite numbers of shape"),
        (numbers(intercepts=np.full(3, np.nan)), "intercepts must be finite numbers of shape"),
        (numbers(intercepts=np.zeros((3, 1))), "intercepts must be finite numbers of shape"),
        (numbers(idf_0=np.array(["a"])), "idf must be finite numbers of shape"),
        (numbers(idf_1=np.array([{}], dtype=object)), "Object arrays cannot be loaded"),
        (written(tfidf.TERMS_FILE, '{"terms": [["a"]], "max_words": 9}'), "terms must be 2 lists of texts"),
        (written(tfidf.TERMS_FILE, '{"terms": [["a"], [1]], "max_words": 9}'), "terms must be 2 lists of texts"),
        (written(tfidf.TERMS_FILE, '{"terms": [[], []], "max_words": -1}'), "max_words must be a number"),
    ],
)
def test_weights_that_fit_their_fingerprint_and_nothing_else_are_refused(
    copied: Path, change: Callable[[Path], object], says: str
) -> None:
    change(copied)
    seal(copied)
    with pytest.raises(ModelError, match=says):
        Router.load(copied)


def test_means_of_other_domains_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "router"
    trained(score="mahalanobis").save(directory)
    np.savez(directory / files.MAHALANOBIS_FILE, means=np.zeros((2, 3)), whitening=np.eye(3))
    seal(directory)
    with pytest.raises(ModelError, match="means must be finite numbers of shape"):
        Router.load(directory)


class Diverged(RandomClassifier):
    def logits(self, text: str) -> FloatArray:
        return super().logits(text) * np.nan


def test_a_training_that_diverged_is_told_before_anything_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_ray.routing.training.classifier_class", lambda _: Diverged)
    with pytest.raises(ModelError, match="training diverged") as caught:
        trained()
    assert caught.value.where == "router.training"


def test_a_router_that_was_saved_before_there_were_two_temperatures_is_the_same(copied: Path, router: Router) -> None:
    path = copied / files.ROUTER_FILE
    record = json.loads(path.read_text())
    assert record.pop("confident_temperature") is None
    known = Router.load(copied).fingerprint
    path.write_text(json.dumps(record))
    found = Router.load(copied)
    assert found.fingerprint == known
    assert (found.predict_proba(ASKED) == router.predict_proba(ASKED)).all()


@pytest.mark.parametrize("score", ["energy", "mahalanobis"])
def test_a_router_saved_under_the_old_names_is_the_same_router(tmp_path: Path, score: str) -> None:
    router = trained(score=score)
    saved = replace(router, record=router.record.model_copy(update={"confident_temperature": 0.75})).save(tmp_path)
    expected = saved.route(ASKED)
    write_old_router(tmp_path)
    assert "foreign_score" in json.loads((tmp_path / files.ROUTER_FILE).read_text())
    found = Router.load(tmp_path)
    assert found.record.model_copy(update={"settings": saved.record.settings}) == saved.record
    assert found.test_results == router.test_results
    assert [one.is_out_of_domain for one in found.route(ASKED)] == [one.is_out_of_domain for one in expected]


def test_the_fingerprint_of_a_router_is_that_of_earlier_versions(copied: Path) -> None:
    changed(confident_temperature=0.75)(copied)
    record = files.read_record(copied)
    assert record.fingerprint == fingerprint(
        {
            "kind": "tfidf",
            "labels": list(DOMAINS),
            "temperature": record.temperature,
            "sure_temperature": 0.75,
            "foreign_score": "energy",
            "threshold": record.threshold,
            "query": "question",
            "weights": record.weights,
        }
    )


def test_the_fingerprint_of_weights_is_that_of_earlier_versions(tmp_path: Path) -> None:
    trained(score="mahalanobis").save(tmp_path)
    files_by_old_name = {"terms.json": "terms.json", "weights.npz": "weights.npz", "foreign.npz": "mahalanobis.npz"}
    expected = {old: file_sha256(tmp_path / name) for old, name in files_by_old_name.items()}
    assert files.weights_fingerprint(tmp_path) == fingerprint(expected)


def test_the_distances_of_two_versions_in_one_directory_are_refused(tmp_path: Path) -> None:
    trained(score="mahalanobis").save(tmp_path)
    shutil.copy(tmp_path / files.MAHALANOBIS_FILE, tmp_path / files.OLD_MAHALANOBIS_FILE)
    with pytest.raises(ModelError, match="not those that it was saved with"):
        Router.load(tmp_path)


def test_a_second_temperature_is_read_and_renames_the_router_but_changes_no_verdict(
    copied: Path, router: Router
) -> None:
    known = Router.load(copied).fingerprint
    changed(confident_temperature=router.record.temperature / 4)(copied)
    found = Router.load(copied)
    before, after = router.predict_proba(ASKED), found.predict_proba(ASKED)
    assert found.fingerprint != known
    assert found.record.temperatures.probabilities(found.outputs(ASKED).logits) == pytest.approx(after)
    assert (after.max(axis=1) >= before.max(axis=1)).all()
    assert after.max() > before.max()
    assert (after.argmax(axis=1) == before.argmax(axis=1)).all()


def test_a_router_without_test_results_loads(copied: Path) -> None:
    (copied / files.TEST_RESULTS_FILE).unlink()
    assert Router.load(copied).test_results is None


def test_other_domains_than_the_routers_are_refused_with_both_lists(router: Router) -> None:
    require_domains(router.domains, ["code", "legal", "biomedical"])
    for domains in (["code", "legal"], ["code", "legal", "biomedical", "tax"], ["code", "legal", "tax"]):
        with pytest.raises(ModelError) as caught:
            require_domains(router.domains, domains, where="router.path")
        assert "between legal, biomedical, code" in caught.value.what
        assert f"domains are {', '.join(domains)}" in caught.value.what
        assert caught.value.where == "router.path"


def test_a_router_is_found_in_its_own_directory_and_in_a_runs(copied: Path) -> None:
    run = RunDirectory(copied.parent / "run")
    run.prepare()
    manifest = Manifest(
        name="run",
        moe_ray_version="0",
        created_at=0.0,
        identity={},
        models={},
        domains={},
        prompts={},
        baseline=None,
        experts={},
    )
    run.write_manifest(manifest)
    with pytest.raises(RunDirectoryError, match="this run has no router"):
        files.find_router(run.path)
    run.write_manifest(manifest.model_copy(update={"router": {"path": "router"}}))
    shutil.copytree(copied, run.path / "router")
    assert files.find_router(copied) == copied
    assert Router.load(files.find_router(run.path)).domains == DOMAINS
    for nothing in (copied.parent, copied / "nowhere"):
        with pytest.raises(ModelError):
            files.find_router(nothing)
