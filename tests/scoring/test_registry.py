from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DecodingConfig, DomainConfig, SandboxConfig
from moe_ray.domains.registry import TASKS, task_class
from moe_ray.errors import ConfigError
from moe_ray.scoring.registry import GRADERS, check_grader_names, make_graders
from moe_ray.scoring.score import Grader


def make(*names: str, num_samples: int = 1, likelihood: bool = True, explicit: bool = True) -> list[Grader]:
    section: dict[str, Any] = {"task": "pubmedqa", "data": {"source": "x"}, "graders": names if explicit else None}
    decoding = DecodingConfig(samples_per_example=num_samples, temperature=1.0)
    domain = DomainConfig.model_validate(section)
    return make_graders(
        names, domain, decoding, SandboxConfig(), base_dir=Path(), where="domains.bio.graders", likelihood=likelihood
    )


@pytest.mark.parametrize("task", TASKS.names)
def test_the_graders_that_tasks_name_by_default_exist(task: str) -> None:
    graders = make(*task_class(task, where="here").default_graders)
    assert all(metric.definition for grader in graders for metric in grader.metrics)


def test_no_two_graders_share_a_metric() -> None:
    names = [metric.name for grader in make(*GRADERS.names) for metric in grader.metrics]
    assert len(names) == len(set(names))


def test_an_unknown_grader_is_answered_with_the_nearest() -> None:
    for refuse in (lambda: make("rouge_1"), lambda: check_grader_names(["rouge_1"], where="domains.bio.graders")):
        with pytest.raises(ConfigError, match="unknown grader 'rouge_1'") as caught:
            refuse()
        assert caught.value.where == "domains.bio.graders"
        assert "did you mean rouge_l?" in str(caught.value.remedy)


def test_a_metric_of_evaluate_needs_a_name() -> None:
    check_grader_names(["evaluate:anything", "decision"], where="here")
    with pytest.raises(ConfigError, match="unknown grader 'evaluate:'"):
        check_grader_names(["evaluate:"], where="here")


def test_naming_a_grader_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="two graders give the metric rouge_l"):
        make("rouge_l", "rouge_l")


def test_without_likelihoods_default_graders_that_need_them_are_left_out() -> None:
    graders = make("decision", "decision_loglik", "rouge_l", "bits_per_byte", likelihood=False, explicit=False)
    assert [grader.metrics[0].name for grader in graders] == ["accuracy", "rouge_l"]


def test_without_likelihoods_a_grader_that_was_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="bits_per_byte need log-likelihoods"):
        make("rouge_l", "bits_per_byte", likelihood=False)


def test_several_samples_make_no_metric_of_generation_binary() -> None:
    assert any(metric.binary for metric in make("decision")[0].metrics)
    assert not any(metric.binary for metric in make("decision", num_samples=3)[0].metrics)
