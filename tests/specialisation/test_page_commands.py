"""`report`, `effects` and `compare` write pages and pictures from files alone; mistakes end in one message."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from moe_ray.specialisation.records import read_trace
from tests.report.pages import Page
from tests.specialisation.made_up import drawn_ablation, drawn_trace, written_ablation, written_trace
from tests.support.commands import Command

LABELS = ("bio", "code", "law")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_trace(drawn_trace(labels=LABELS), tmp_path_factory.mktemp("trace") / "t")


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_ablation(drawn_ablation(labels=LABELS), tmp_path_factory.mktemp("ablation") / "a")


def test_the_letters_of_tokens_are_kept_with_the_trace(trace: Path) -> None:
    made = drawn_trace(labels=LABELS)
    read = read_trace(trace, with_tokens=True)
    used = {token for text in made.tokens for token in text.token_ids.tolist()}
    assert read.pieces == {token: made.pieces[token] for token in used}
    assert read_trace(trace).pieces == {}


@pytest.mark.slow
def test_report_writes_a_page_and_pictures_with_the_effects(
    moe_ray: Command, trace: Path, ablation: Path, tmp_path: Path
) -> None:
    page, folder = tmp_path / "new" / "page.html", tmp_path / "pictures"
    code, shown = moe_ray("specialise", "report", trace, "--html", page, "--pictures", folder, "--ablation", ablation)
    assert code == 0, shown
    assert f"Page: {page}" in shown
    assert f"Pictures: {folder} (" in shown
    written = page.read_text(encoding="utf-8")
    assert Page(written).open == []
    assert "removing it costs bio 0.5" in written
    assert {"lift-1.svg", "forest.png", "routes.svg", "captions.txt"} <= {path.name for path in folder.iterdir()}
    code, shown = moe_ray("specialise", "effects", ablation, "--html", tmp_path / "other.html", "--trace", trace)
    assert code == 0, shown
    assert (tmp_path / "other.html").read_text(encoding="utf-8") == written


def test_an_ablation_alone_has_a_page(moe_ray: Command, ablation: Path, tmp_path: Path) -> None:
    code, shown = moe_ray("specialise", "effects", ablation, "--html", tmp_path / "page.html", "--margin", "0.1")
    assert code == 0, shown
    written = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "its use is not measured: no trace given" in written


def test_compare_prints_tables_json_and_a_picture(moe_ray: Command, trace: Path, tmp_path: Path) -> None:
    other = written_trace(drawn_trace(labels=LABELS, seed=2), tmp_path / "other")
    code, shown = moe_ray("specialise", "compare", trace, other, "--pictures", tmp_path / "p", "--top", "3")
    assert code == 0, shown
    assert "matched experts correspond to each other better than chance" in shown
    assert (tmp_path / "p" / "matches-1.svg").is_file()
    code, shown = moe_ray("specialise", "compare", trace, trace, other, "--json")
    first, second = json.loads(shown)["comparisons"]
    assert code == 0
    assert [(one["expert_a"], one["expert_b"]) for one in first["experts"][:6]] == [(at, at) for at in range(6)]
    assert {one["difference"] for one in first["differences"]} == {0.0}
    assert second["num_shared"] == 36


@pytest.mark.slow
def test_pages_and_comparisons_need_no_torch(trace: Path, ablation: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from moe_ray.cli.specialise import report_traces; "
        "from moe_ray.cli.specialise_compare import show_comparison; "
        "from moe_ray.cli.specialise_page import PageOutput; "
        f"out = Path({str(tmp_path)!r}); t = Path({str(trace)!r}); "
        "report_traces([t], weight='token', top=0, as_json=False, output=PageOutput(html=out / 'p.html'), "
        f"ablation=Path({str(ablation)!r})); "
        "show_comparison([t, t], layers=None, top=1, as_json=False, pictures=None); "
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_mistakes_end_in_one_message(moe_ray: Command, trace: Path, ablation: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    other = drawn_ablation(labels=LABELS)
    plan = other.plan.model_copy(update={"model_fingerprint": "1"})
    strange = written_ablation(dataclasses.replace(other, plan=plan), tmp_path / "strange")
    wrong: list[tuple[str, tuple[object, ...]]] = [
        ("is a folder", ("report", trace, "--html", tmp_path)),
        ("exists and is not a folder", ("report", trace, "--pictures", tmp_path / "file")),
        ("exists and is not a folder", ("report", trace, "--html", tmp_path / "file" / "page.html")),
        ("their weights differ", ("report", trace, "--html", tmp_path / "p.html", "--ablation", strange)),
        ("is not an ablation", ("report", trace, "--ablation", trace)),
        ("is not a trace", ("effects", ablation, "--trace", ablation)),
        ("one trace", ("compare", trace)),
        ("is not a pair of layers", ("compare", trace, trace, "--layers", "0,1")),
        ("names a layer twice", ("compare", trace, trace, "--layers", "0:0,0:1")),
        ("has no layer 9", ("compare", trace, trace, "--layers", "0:9")),
        ("is not a trace", ("compare", trace, ablation)),
    ]
    for message, arguments in wrong:
        code, shown = moe_ray("specialise", *arguments)
        assert code == 2, (arguments, shown)
        assert message in " ".join(shown.split()), (arguments, shown)
        assert "Traceback" not in shown
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "p.html").exists()
