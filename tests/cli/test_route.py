"""`moe-ray route`: verdicts for people and as JSON, from arguments and from stdin."""

import io
import json
from pathlib import Path

import pytest

from moe_ray.cli.main import app
from moe_ray.cli.terminal import EXIT_USAGE, reported
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from tests.routing.queries import DOMAINS, nothing_reported, router_texts

LEGAL, CODE = "does the contract of the landlord name a lease", "how does a function sort a list"
SPORTS = "when is the penalty for the goal in a league"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "router"
    texts = router_texts((*DOMAINS, OTHER))
    fit_router(RouterConfig(kind="tfidf"), texts, device="cpu", report=nothing_reported)[0].save(path)
    return path


def route(*arguments: object, stdin: str = "") -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["moe-ray", "route", *map(str, arguments)])
        patch.setattr("sys.stdin", io.StringIO(stdin))
        return reported(app)


def test_a_text_gets_a_verdict_its_probabilities_and_its_time(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert route(LEGAL, "", "a\x1b[31m lease", "--router", directory) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"legal: {LEGAL}"
    assert lines[1].startswith("  legal 0.")
    assert all(name in lines[1] for name in (*DOMAINS, OTHER, "score", "threshold"))
    assert lines[1].endswith("s")
    assert lines[2] == "out-of-domain (the baseline answers): (a blank text)"
    assert "\x1b" not in "".join(lines)


def test_json_holds_what_route_returns_for_each_line_of_stdin(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert route("-", CODE, "--router", directory, "--json", stdin=f"{LEGAL}\n\n{SPORTS}\n") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = Router.load(directory).route([LEGAL, "", SPORTS, CODE])
    assert [item["text"] for item in found] == [LEGAL, "", SPORTS, CODE]
    for item, one in zip(found, expected, strict=True):
        assert item["probabilities"] == one.probabilities
        assert (item["domain"], item["score"], item["is_out_of_domain"]) == (
            one.domain,
            one.score,
            one.is_out_of_domain,
        )
    assert [item["is_out_of_domain"] for item in found] == [False, True, True, False]


@pytest.mark.parametrize("arguments", [("text", "--router", "nowhere"), ("-", "--router", "."), ("text",), ()])
def test_a_mistake_exits_with_two_and_says_what_to_do(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert route(*arguments) == EXIT_USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "remedy" in shown.err
