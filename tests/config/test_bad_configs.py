from pathlib import Path

import pytest

from moe_ray.config.load import load_experiment
from moe_ray.errors import ConfigError

from .bad_configs import BAD_CONFIGS, GOOD, BadConfig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "experiment.yaml"


def refuse(file: Path, text: str | bytes) -> ConfigError:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_experiment(file)
    return caught.value


def test_the_file_that_the_cases_change_is_good(file: Path) -> None:
    file.write_text(GOOD)
    assert load_experiment(file).config.name == "good"


@pytest.mark.parametrize("case", BAD_CONFIGS, ids=lambda case: case.name)
def test_a_wrong_file_is_refused_with_its_line_key_and_remedy(case: BadConfig, file: Path) -> None:
    error = refuse(file, case.text)
    assert error.where == f"{file}{case.where}"
    assert case.what.replace("{file}", str(file)) in error.what
    assert case.remedy in (error.remedy or "")


def test_there_are_at_least_thirty_cases_of_different_names() -> None:
    assert len({case.name for case in BAD_CONFIGS}) == len(BAD_CONFIGS) >= 30


def test_all_problems_come_in_one_error_in_the_order_of_the_file(file: Path) -> None:
    text = GOOD.replace("dtype: float32", "dtyp: float32").replace("task:", "tsk:") + "likelihood: 3\n"
    error = refuse(file, text)
    keys = [line.split(": ")[1] for line in error.what.splitlines()[1:]]
    assert error.what.splitlines()[0] == "4 problems"
    assert keys == ["models.mediphi.dtyp", "domains.biomedical.task", "domains.biomedical.tsk", "likelihood"]


def test_no_more_than_ten_problems_are_written_out(file: Path) -> None:
    error = refuse(file, GOOD + "".join(f"zz{number}: 1\n" for number in range(25)))
    lines = error.what.splitlines()
    assert lines[0] == "25 problems"
    assert len(lines) == 12
    assert lines[-1].strip() == "and 15 more"


def test_a_missing_file_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "three-experts.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_experiment(tmp_path / "three-expert.yaml")
    assert caught.value.remedy == f"did you mean {tmp_path / 'three-experts.yaml'}?"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_experiment(tmp_path / "none" / "a.yaml")
    assert caught.value.remedy == f"the folder {tmp_path / 'none'} does not exist"


def test_a_folder_is_no_experiment_but_may_hold_one(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match="a folder") as caught:
        load_experiment(tmp_path)
    assert str(tmp_path / "experiment.yaml") in (caught.value.remedy or "")


def test_a_file_that_is_not_utf_8_is_refused_with_the_line_of_the_first_wrong_byte(file: Path) -> None:
    error = refuse(file, b"name: a\ndescription: caf\xe9\n")
    assert error.where == f"{file}:2"
    assert error.what == "not UTF-8: byte 0xe9"


def test_bytes_that_are_no_text_are_refused_without_a_traceback(file: Path) -> None:
    assert "not UTF-8" in refuse(file, b"\x80\x02}q\x00.").what
    assert "control character" in refuse(file, b"PK\x03\x04\n").what


def test_aliases_that_expand_without_bounds_are_refused_quickly(file: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    assert "expand without bounds" in refuse(file, bomb).what


def test_brackets_beyond_all_depth_are_refused(file: Path) -> None:
    assert "nested too deeply" in refuse(file, "[" * 20_000).what
