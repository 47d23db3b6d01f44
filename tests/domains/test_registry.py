import subprocess
import sys

import pytest

from moe_ray.domains.registry import TASKS, task_class
from moe_ray.errors import ConfigError
from moe_ray.registry import Registry


@pytest.mark.parametrize("name", TASKS.names)
def test_every_registered_task_can_be_imported(name: str) -> None:
    assert task_class(name, where="here").default_graders


def test_a_name_is_taken_once() -> None:
    registry: Registry[str] = Registry("fruit")
    registry.add("apple", "green")
    registry.add("apple", "green")
    with pytest.raises(ConfigError, match="apple is taken by 'green'"):
        registry.add("apple", "red")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        TASKS.get("pubmed_qa", where="domains.bio.task")
    assert caught.value.where == "domains.bio.task"
    assert str(caught.value.remedy).startswith("did you mean pubmedqa?")


def test_naming_tasks_and_graders_imports_nothing_heavy() -> None:
    code = (
        "import sys, moe_ray.domains.loading, moe_ray.domains.prepare, moe_ray.domains.pubmedqa, "
        "moe_ray.domains.law_stackexchange, moe_ray.domains.mbpp, moe_ray.domains.tables, moe_ray.scoring.registry, "
        "moe_ray.scoring.grade, moe_ray.scoring.score\n"
        "heavy = {'torch', 'ray', 'transformers', 'datasets', 'evaluate', 'rouge_score', 'bs4', 'nltk', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
