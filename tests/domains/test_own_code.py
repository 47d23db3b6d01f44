"""What a folder beside an experiment file may run: the module that the file names, and nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moe_ray.domains.registry import import_object, importable
from moe_ray.errors import ConfigError

from .records import LINES, POEMS, load, write_jsonl

ROOT = Path(__file__).parents[2]
CANARY = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"
EXPERIMENT = """
name: quiet
models:
  small: {path: ./none, engine: scripted, engine_settings: {text: fine}}
baseline: small
domains:
  law:
    task: law_stackexchange
    data: {source: ./law.jsonl}
    expert: small
"""
LAW = {
    "question_id": 1,
    "question_title": "May he?",
    "question_body": "<p>May he?</p>",
    "answers": [{"answer_id": 2, "score": 1, "body": "<p>He may.</p>"}],
}


@pytest.fixture(autouse=True)
def imports_of_the_test() -> Iterator[None]:
    """Forget the modules that a test imports: the next one may have others of the same names."""
    before, finders = set(sys.modules), list(sys.meta_path)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]
    assert sys.meta_path[: len(finders)] == finders


def imported(folder: Path, spec: str) -> object:
    with importable(folder):
        return import_object(spec, where="domains.field.task")


@pytest.mark.parametrize("beside", [True, False], ids=["working directory", "another directory"])
def test_a_plan_imports_nothing_that_lies_beside_an_experiment_without_classes(tmp_path: Path, *, beside: bool) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "quiet.yaml").write_text(EXPERIMENT)
    write_jsonl(folder / "law.jsonl", [LAW])
    for name in ("bs4", "pandas", "numpy", "yaml", "pydantic", "json", "bottleneck", "numexpr", "sitecustomize"):
        (folder / f"{name}.py").write_text(CANARY)
    command = [sys.executable, "-m", "moe_ray", "plan", str(folder / "quiet.yaml")]
    cwd = folder if beside else tmp_path
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert "2 answers" in done.stdout, done.stdout + done.stderr
    assert sorted(path.name for path in folder.glob("*.ran")) == []


def test_a_named_class_comes_with_its_siblings_and_leaves_the_path_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "own_poems.py").write_text(POEMS + "    from own_verses import RHYME\n")
    (tmp_path / "own_verses.py").write_text("RHYME = 'aabb'\n")
    path_before = list(sys.path)
    domain = load(tmp_path, LINES, "own_poems:Poems", max_examples=6)
    assert len(domain.examples) == 6
    assert domain.data_fingerprint["num_available"] == 20
    assert domain.graders == ("rouge_l",)
    assert load(tmp_path, LINES[::-1], "own_poems:Poems", max_examples=9).examples[:6] == domain.examples
    assert sys.modules["own_verses"].RHYME == "aabb"
    assert sys.path == path_before


def test_a_sibling_may_be_imported_later_by_the_class_itself(tmp_path: Path) -> None:
    (tmp_path / "own_late.py").write_text("def late():\n    import own_sibling\n    return own_sibling.VALUE\n")
    (tmp_path / "own_sibling.py").write_text("VALUE = 3\n")
    late = imported(tmp_path, "own_late:late")
    assert callable(late)
    assert late() == 3


def test_a_module_of_a_package_beside_the_experiment_is_found(tmp_path: Path) -> None:
    (tmp_path / "own_pack").mkdir()
    (tmp_path / "own_pack" / "tasks.py").write_text("from own_pack.parts import VALUE\n")
    (tmp_path / "own_pack" / "parts.py").write_text("VALUE = 4\n")
    assert imported(tmp_path, "own_pack.tasks:VALUE") == 4


def test_an_installed_library_finds_no_optional_import_beside_a_named_class(tmp_path: Path) -> None:
    """The library is on the path of Python, the folder is not: what the library tries to import must stay away."""
    installed, folder = tmp_path / "installed", tmp_path / "given"
    for place in (installed, folder):
        place.mkdir()
    (installed / "own_library.py").write_text("try:\n    import own_optional\nexcept ImportError:\n    pass\n")
    (folder / "own_optional.py").write_text(CANARY)
    (folder / "own_task.py").write_text("import own_library\nVALUE = 1\n")
    sys.path.append(str(installed))
    try:
        assert imported(folder, "own_task:VALUE") == 1
    finally:
        sys.path.remove(str(installed))
    assert not (folder / "own_optional.ran").exists()


def test_a_file_never_stands_in_for_an_installed_or_standard_module(tmp_path: Path) -> None:
    for name in ("json", "bs4"):
        (tmp_path / f"{name}.py").write_text(CANARY + "class Task: pass\n")
        with pytest.raises(
            ConfigError, match=f"{name}.py has the name of the module {name} that is installed"
        ) as caught:
            imported(tmp_path, f"{name}:Task")
        assert caught.value.where == "domains.field.task"
        assert caught.value.remedy == "rename the file beside the experiment"
    (tmp_path / "own_reader.py").write_text("import json\nloads = json.loads\n")
    loads = imported(tmp_path, "own_reader:loads")
    assert callable(loads)
    assert loads("[1]") == [1]
    assert list(tmp_path.glob("*.ran")) == []


def test_two_folders_may_have_modules_of_one_name(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "own_twin.py").write_text("from own_part import VALUE\n")
        (folder / "own_part.py").write_text(f"VALUE = {number}\n")
    found = [imported(tmp_path / str(number), "own_twin:VALUE") for number in (1, 2, 1)]
    assert found == [1, 2, 1]


@pytest.mark.parametrize(
    ("code", "what"),
    [("x = (", "was never closed"), ("import own_missing", "own_missing"), ("1 / 0", "division by zero"), ("x", "'x'")],
)
def test_a_module_that_cannot_be_imported_is_reported_with_its_reason(code: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "own_broken.py").write_text(code)
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot import 'own_broken'") as caught:
            imported(tmp_path, "own_broken:Task")
        assert what in caught.value.what
    (tmp_path / "own_broken.py").write_text("Task = 5  # repaired\n")
    assert imported(tmp_path, "own_broken:Task") == 5
