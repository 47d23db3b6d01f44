"""The site file: its defaults, and one message for each mistake."""

from pathlib import Path

import pytest

from moe_ray.clusters.slurm.site import OWN_FLAGS, SiteConfig, load_site
from moe_ray.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[3] / "cluster" / "slurm").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "site.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_site_file_the_defaults_hold() -> None:
    assert load_site(None) == SiteConfig()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.name))
def test_the_examples_are_valid(path: Path) -> None:
    assert load_site(path).python_command


def test_a_wrong_key_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="partitoin") as raised:
        load_site(written(tmp_path, "account: a\npartitoin: gpu\n"))
    assert "site.yaml:2" in str(raised.value)
    assert "partition" in str(raised.value)


@pytest.mark.parametrize("flag", ["--nodes=2", "-N 2", "-N2", "--time=10", "--no-requeue", "--output x"])
def test_options_that_the_script_sets_itself_are_refused(tmp_path: Path, flag: str) -> None:
    with pytest.raises(ConfigError, match="is set by the command line"):
        load_site(written(tmp_path, f'sbatch: ["{flag}"]\n'))


def test_options_of_one_letter_are_told_apart(tmp_path: Path) -> None:
    assert load_site(written(tmp_path, "sbatch: [-C a100, --nodelist=n1]\n")).sbatch == ("-C a100", "--nodelist=n1")
    assert "-C" not in OWN_FLAGS


@pytest.mark.parametrize(
    "text",
    [
        'prefix: ["a\\nb"]',
        "sbatch: [qos=normal]",
        "temp_dir: relative",
        "temp_dir: /a/path/that/is/too/long/for/sockets",
        "environment: {A-B: c}",
        "partition: two words",
        "gpu_request: gpus",
        "staging: {}",
        "staging: {folder: relative/path}",
        "staging: {folder: /x, max_gib: 0}",
        "staging: {folder: /x, max_gib: .inf}",
        "staging: {folder: /x, keeep: true}",
        "offline: perhaps",
        "- a list",
        "",
    ],
)
def test_values_that_cannot_be_meant_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_site(written(tmp_path, text))


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as raised:
        load_site(tmp_path / "none.yaml")
    assert raised.value.where == str(tmp_path / "none.yaml")
    (tmp_path / "latin").write_bytes(b"account: \xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_site(tmp_path / "latin")
