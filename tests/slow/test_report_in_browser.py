"""The report in a real browser: the answers are read, shown and escaped, and nothing breaks on the way."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from moe_ray.report.write import write_report
from moe_ray.scoring.table import write_scores
from tests.report.synthetic import ALL_METRICS, synthetic_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_S = 120
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open `page` in a headless browser that may talk to nobody, and wait for its scripts."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=20000", *options]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run, scores = synthetic_run(tmp_path_factory.mktemp("run"), num_models=3, num_answers=60)
    write_scores(run.scores_path, scores, ALL_METRICS)
    write_report(run)
    return run.report_path


def test_the_answers_are_read_and_the_first_page_is_shown(page: Path, tmp_path: Path) -> None:
    opened = browse(page, tmp_path, "--dump-dom")
    status = re.search(r'id="answer-status"[^>]*>([^<]*)<', opened.stdout)
    assert status is not None
    assert re.search(r"\d", html.unescape(status[1])), f"the browser says {status[1]!r}"
    shown = re.search(r'id="answer-list"[^>]*>(.*?)</ol>', opened.stdout, re.DOTALL)
    assert shown is not None
    assert shown[1].count("<li") > 0
    errors = [line for line in opened.stderr.splitlines() if "CONSOLE" in line]
    assert not errors


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_it_draws_at_every_width(page: Path, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}", f"--window-size={width},2000")
    assert picture.stat().st_size > 20_000, "an empty page would compress to almost nothing"
