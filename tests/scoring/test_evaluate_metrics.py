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
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
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
