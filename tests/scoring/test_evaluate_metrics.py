import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import pytest

from moe_ray.errors import ConfigError, DataError
from moe_ray.scoring.evaluate_metrics import EvaluateGrader

from .answering import example, generated

SCRIPT = """
import datasets
import evaluate


class Script(evaluate.Metric):
    def _info(self):
        references = datasets.Value("string")
        features = {{"predictions": datasets.Value("{predictions}"), "references": {references}}}
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references):
        return {result}
"""


@pytest.fixture(autouse=True)
def modules_of_this_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the copies that `evaluate` makes of scripts, and the modules it imports them as, out of other tests."""
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    # Another test may have left a folder of such modules on the path, which would be found first.
    others = [entry for entry in sys.path if not Path(entry, "evaluate_modules").is_dir()]
    monkeypatch.setattr(sys, "path", others)
    _forget_modules()
    yield
    _forget_modules()


def _forget_modules() -> None:
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        del sys.modules[name]


def script(
    folder: Path, name: str, result: str, *, predictions: str = "string", references: str = "references"
) -> EvaluateGrader:
    text = SCRIPT.format(predictions=predictions, references=references, result=result)
    (folder / f"{name}.py").write_text(text)
    return EvaluateGrader(f"./{name}.py", folder)


def test_a_script_of_the_working_directory_is_not_run_in_place_of_a_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rouge", "someone/bleu"):
        (tmp_path / name).mkdir(parents=True)
        script_file = tmp_path / name / f"{Path(name).name}.py"
        script_file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError, match="of the working directory") as caught:
            EvaluateGrader(name, tmp_path / "elsewhere", where="domains.bio.graders")
        assert caught.value.where == "domains.bio.graders"
        assert not (tmp_path / "ran").exists()


LENGTHS = "sum(map(len, predictions)) / sum(map(len, references))"


def test_a_script_beside_the_experiment_grades_answer_by_answer(tmp_path: Path) -> None:
    grader = script(tmp_path, "length_ratio", f'{{"length_ratio": {LENGTHS}, "parts": [1, 2], "name": "x"}}')
    assert [metric.name for metric in grader.metrics] == ["length_ratio"]
    for text, value in [("ab", 0.5), ("", 0.0), ("abcdefgh", 2.0)]:
        (score,) = grader.grade(example(reference="abcd"), "m", [generated(text)])
        assert score.value == value


def test_each_numeric_result_is_a_metric_of_its_own(tmp_path: Path) -> None:
    result = '{"several": 1, "half": __import__("numpy").float64(0.5), "flag": True}'
    grader = script(tmp_path, "several", result)
    assert [metric.name for metric in grader.metrics] == ["several", "several.half"]
    assert [score.value for score in grader.grade(example(), "m", [generated("x")])] == [1.0, 0.5]


def test_a_metric_of_several_references_gets_a_list_of_one(tmp_path: Path) -> None:
    grader = script(
        tmp_path,
        "listed",
        '{"listed": float(predictions[0] in references[0])}',
        references="datasets.Sequence(references)",
    )
    values = [grader.grade(example(reference="a"), "m", [generated(text)])[0].value for text in ("a", "b")]
    assert values == [1.0, 0.0]


def test_a_metric_that_fails_on_one_answer_leaves_it_unscored_and_goes_on(tmp_path: Path) -> None:
    grader = script(tmp_path, "inverse", '{"inverse": 1 / len(predictions[0])}')
    scores = [grader.grade(example(), "m", [generated(text)])[0] for text in ("ab", "", "abcd")]
    assert [score.value for score in scores] == [0.5, None, 0.25]
    assert "division by zero" in str(scores[1].reason)


def test_samples_are_averaged(tmp_path: Path) -> None:
    script(tmp_path, "length_ratio", f'{{"length_ratio": {LENGTHS}}}')
    grader = EvaluateGrader("./length_ratio.py", tmp_path, num_samples=2)
    (score,) = grader.grade(example(reference="ab"), "m", [generated("a"), generated("ab", sample=1)])
    assert score.value == 0.75


def test_a_metric_of_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot compare two texts"):
        script(tmp_path, "of_numbers", '{"of_numbers": 1.0}', predictions="int32")


def test_a_metric_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives no number, but words"):
        script(tmp_path, "of_words", '{"words": "many"}')


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        EvaluateGrader("./nothing.py", tmp_path)


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [(FileNotFoundError("Couldn't find it"), "evaluate:./FILE.py"), (ImportError("needs nltk"), "install")],
)
def test_a_metric_that_cannot_be_loaded_is_refused_with_its_remedy(
    failure: Exception, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(evaluate, "load", load)
    with pytest.raises(ConfigError) as caught:
        EvaluateGrader("some_metric", tmp_path, where="domains.d.graders")
    assert str(failure) in caught.value.what
    assert caught.value.where == "domains.d.graders"
    assert remedy in str(caught.value.remedy)


# As BERTScore: an argument is needed, and each result is a list; the number of its calls is counted.
LISTS = """
import datasets
import evaluate

CALLS = []


class Script(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, lang=None, model_type=None):
        if lang is None and model_type is None:
            raise ValueError("Either 'lang' or 'model_type' should be specified")
        CALLS.append(len(predictions))
        if "broken" in predictions:
            raise RuntimeError("it cannot be embedded")
        f1 = [len(text) / len(other) for text, other in zip(predictions, references)]
        return {"precision": [1.0] * len(f1), "f1": f1, "hashcode": lang, "three": [1, 2, 3], "mean": sum(f1)}
"""


def listing(folder: Path, **settings: Any) -> EvaluateGrader:
    (folder / "listing.py").write_text(LISTS)
    return EvaluateGrader("./listing.py", folder, settings=settings, where="domains.d.graders.0")


def calls() -> list[int]:
    (module,) = [module for name, module in list(sys.modules.items()) if "listing" in name and "CALLS" in vars(module)]
    found: list[int] = module.CALLS
    return found


def test_a_metric_that_needs_an_argument_gets_it_and_says_so_without(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Either 'lang' or 'model_type' should be specified") as caught:
        listing(tmp_path)
    assert "settings: {ARGUMENT: VALUE}" in str(caught.value.remedy)
    grader = listing(tmp_path, lang="en", keep=["f1"])
    (metric,) = grader.metrics
    assert (metric.name, metric.higher_is_better, metric.worst) == ("listing", True, 0.0)
    assert "lang='en'" in metric.definition


def test_a_metric_of_lists_measures_many_answers_in_one_call(tmp_path: Path) -> None:
    grader = listing(tmp_path, lang="en")
    assert [metric.name for metric in grader.metrics] == ["listing.precision", "listing.f1"]
    calls().clear()
    items = [(example(f"e{n}", reference="abcd"), "m", [generated("ab" * (n + 1))]) for n in range(50)]
    rows = grader.grade_many([*items, (example("none"), "m", [])])
    assert [row[1].value for row in rows] == [*[(n + 1) / 2 for n in range(50)], None]
    assert rows[-1][1].reason == "no answer"
    assert calls() == [50]


def test_one_answer_that_a_batch_fails_on_is_unscored_alone(tmp_path: Path) -> None:
    grader = listing(tmp_path, model_type="x", keep="f1")
    texts = ["abcd"] * 5 + ["broken"] + ["ab"] * 4
    rows = grader.grade_many([(example(f"e{n}", reference="abcd"), "m", [generated(t)]) for n, t in enumerate(texts)])
    assert [row[0].value for row in rows] == [1.0] * 5 + [None] + [0.5] * 4
    assert rows[5][0].reason == "evaluate:listing failed: it cannot be embedded"


def test_samples_of_a_metric_of_lists_are_averaged(tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text(LISTS)
    grader = EvaluateGrader("./listing.py", tmp_path, 2, settings={"lang": "en", "keep": ["f1"]})
    (score,) = grader.grade(example(reference="ab"), "m", [generated("a"), generated("ab", sample=1)])
    assert score.value == 0.75


@pytest.mark.parametrize(
    ("settings", "what", "where"),
    [
        ({"keep": ["f2"]}, "has no result f2 that is a number", ".settings.keep"),
        ({"keep": ["hashcode"]}, "has no result hashcode", ".settings.keep"),
        ({"keep": ["three"]}, "has no result three", ".settings.keep"),
        ({"keep": ["f1", "mean"]}, "are not all one value for each text", ".settings.keep"),
        ({"keep": 3}, "tuple", ".settings.keep"),
        ({"higher_is_better": "no"}, "bool", ".settings.higher_is_better"),
    ],
)
def test_settings_that_a_metric_cannot_follow_are_refused_at_their_key(
    tmp_path: Path, settings: dict[str, Any], what: str, where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        listing(tmp_path, lang="en", **settings)
    assert what in caught.value.what
    assert caught.value.where == f"domains.d.graders.0{where}"


def test_direction_worst_value_and_name_can_be_said(tmp_path: Path) -> None:
    settings = {"higher_is_better": False, "worst": 9.0, "metric_name": "distance", "keep": "mean", "lang": "en"}
    (metric,) = listing(tmp_path, **settings).metrics
    assert (metric.name, metric.higher_is_better, metric.worst) == ("distance", False, 9.0)
    (unsaid,) = listing(tmp_path, higher_is_better=False, keep="mean", lang="en").metrics
    assert unsaid.worst is None
    (unbounded,) = listing(tmp_path, worst=None, keep="mean", lang="en").metrics
    assert unbounded.worst is None
