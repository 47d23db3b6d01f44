"""The documentation: links resolve, every page is reachable, prose has one width, code and columns exist."""

import ast
import csv
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from moe_ray.config.load import load_experiment
from moe_ray.config.schema import DomainConfig
from moe_ray.scoring.score import SCORE_SCHEMA
from moe_ray.store.answers import ANSWER_SCHEMA
from moe_ray.store.routes import ROUTE_SCHEMA

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
STARTS = [ROOT / "README.md", DOCS / "index.md"]
WIDTH = 120
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
HEADING = re.compile(r"#{1,6} (.+)")


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines of `page` outside code blocks, with their numbers."""
    fence = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        marks = re.match(r"\s*(`{3,})", line)
        if fence:
            fence = "" if marks and len(marks[1]) >= len(fence) else fence
        elif marks:
            fence = marks[1]
        else:
            yield number, line


def links(page: Path) -> Iterator[str]:
    """The links of `page` that are not web addresses. The text of a link may span lines."""
    text = "\n".join(re.sub(r"`[^`]*`", "", line) for _, line in prose(page))
    for found in LINK.finditer(text):
        target = found[1] or found[2]
        if "://" not in target and not target.startswith("mailto:"):
            yield target


def slugs(page: Path) -> set[str]:
    """The anchors of the headings of `page`, as GitHub makes them."""
    found = (HEADING.fullmatch(line) for _, line in prose(page))
    return {re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-") for heading in found if heading}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_resolves(page: Path) -> None:
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and (file.suffix != ".md" or anchor not in slugs(file))):
            broken.append(target)
    assert broken == []


def test_links_and_anchors_are_found(tmp_path: Path) -> None:
    """So that a broken pattern cannot make the test above pass."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One `code`, two: three\n\n[a\nlong one](b.md#c) and [d](https://e.org)\n\n"
        "```\n[f](g.md)\n# no heading\n```\n"
        '<img src="h.png">\n',
        encoding="utf-8",
    )
    assert list(links(page)) == ["b.md#c", "h.png"]
    assert slugs(page) == {"one-code-two-three"}


def test_every_page_is_reached_from_the_readme_or_the_index() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in STARTS for target in links(page)}
    linked |= {(DOCS / "decisions" / target).resolve() for target in links(DOCS / "decisions" / "README.md")}
    missing = [str(page.relative_to(ROOT)) for page in PAGES if page not in STARTS and page.resolve() not in linked]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_lines_are_at_most_120_columns(page: Path) -> None:
    long = [
        number
        for number, line in prose(page)
        if len(line) > WIDTH and not line.startswith(("|", "    ", "#", "<", "  <"))
    ]
    assert long == []


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of `page` in `language`, without their indent."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(code) for _, code in found]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_in_the_documentation_parses_and_imports_what_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("moe_ray"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_yaml_in_the_documentation_is_yaml() -> None:
    shown = [block for page in PAGES for block in blocks(page, "yaml")]
    assert len(shown) > 10
    assert all(isinstance(yaml.safe_load(block), dict) for block in shown)


def test_the_task_and_the_grader_of_the_documentation_work() -> None:
    task: dict[str, Any] = {}
    exec(blocks(DOCS / "how-to" / "write-a-task.md", "python")[0], task)
    config = DomainConfig.model_validate({"task": "my_tasks:Translation", "data": {"source": "./pairs.jsonl"}})
    record = {"id": 7, "english": "Good day", "german": "Guten Tag"}
    (example,) = task["Translation"]("german", config).examples([record])
    assert (example.id, example.reference) == ("7", "Guten Tag")
    assert example.prompts["chat"].messages[0].content == "Translate into German: Good day"
    grader: dict[str, Any] = {}
    exec(blocks(DOCS / "how-to" / "write-a-grader.md", "python")[0], grader)
    assert grader["Length"](unit="words").measure(example, "three short words") == (3.0,)


def test_the_tutorial_shows_the_experiment_that_it_runs() -> None:
    file = ROOT / "experiments" / "tutorial" / "compare.yaml"
    written = "".join(line for line in file.read_text(encoding="utf-8").splitlines(True) if not line.startswith("#"))
    assert blocks(DOCS / "tutorial.md", "yaml")[0] == written
    config = load_experiment(file).config
    with (file.parent / "tickets.csv").open(encoding="utf-8", newline="") as stream:
        teams = {row["team"] for row in csv.DictReader(stream)}
    assert teams == set(config.domains["tickets"].choices or ())


@pytest.mark.parametrize("schema", [ANSWER_SCHEMA, SCORE_SCHEMA, ROUTE_SCHEMA], ids=["answers", "scores", "routes"])
def test_every_column_of_every_table_is_described(schema: pa.Schema) -> None:
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    described = {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    assert set(schema.names) - described == set()
