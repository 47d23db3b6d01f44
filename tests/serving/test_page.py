"""The files of the chat page: complete, self-contained, and without ways to run what a model wrote."""

import re
from importlib.resources import files

import pytest

from moe_ray.serving.page import PAGE_HEADERS, page_files

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
FILES = {path: content.decode() for path, (content, _) in page_files().items()}
SCRIPTS = [path for path in FILES if path.endswith(".js")]
CODE_FROM_TEXT = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment", "DOMParser",
    "setHTMLUnsafe", "srcdoc", "eval(", "new Function", "import(", "localStorage",
)  # fmt: skip


def references(path: str) -> set[str]:
    """The files that `path` names: links, scripts and imports."""
    found = re.findall(r"(?:src|href)=\"([^\"]+)\"|from \"([^\"]+)\"|url\(([^)]+)\)", FILES[path])
    return {next(filter(None, groups)) for groups in found}


def test_the_page_has_its_document_style_and_script_each_with_its_content_type() -> None:
    types = {path: content_type for path, (_, content_type) in page_files().items()}
    assert types["/"] == "text/html; charset=utf-8"
    assert types["/page.css"] == "text/css; charset=utf-8"
    assert {types[path] for path in SCRIPTS} == {"text/javascript; charset=utf-8"}
    assert types.keys() == {"/", "/page.css", *SCRIPTS}
    assert "/page.js" in SCRIPTS


def test_every_file_that_the_page_names_is_one_of_its_own_and_every_file_is_named() -> None:
    names = set().union(*(references(path) for path in FILES))
    local = {name for name in names if not name.startswith(("#", "data:"))}
    assert {f"/{name.removeprefix('./')}" for name in local} == FILES.keys() - {"/"}


@pytest.mark.parametrize("path", FILES)
def test_no_file_holds_an_address_of_another_server(path: str) -> None:
    text = FILES[path].replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?://|[\"'(]//|wss?://", text)


@pytest.mark.parametrize("path", SCRIPTS)
def test_no_script_makes_markup_or_code_of_text_or_keeps_a_key_beyond_the_tab(path: str) -> None:
    assert [name for name in CODE_FROM_TEXT if name in FILES[path]] == []


def test_the_document_holds_no_script_style_or_handler_that_the_policy_would_block() -> None:
    assert not re.search(r"<style|<script(?![^>]+src=)|\sstyle=|\son\w+=", FILES["/"])


def test_the_headers_allow_files_and_requests_of_this_server_only() -> None:
    policy = dict(part.split(" ", 1) for part in PAGE_HEADERS["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
        "img-src": "'self' data:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
    }  # fmt: skip
    assert PAGE_HEADERS["X-Content-Type-Options"] == "nosniff"
    assert PAGE_HEADERS["Referrer-Policy"] == "no-referrer"
    assert PAGE_HEADERS["Cross-Origin-Opener-Policy"] == "same-origin"


def test_the_page_has_the_colours_of_the_report() -> None:
    report = (files("moe_ray.report") / "templates" / "report.css").read_text(encoding="utf-8")
    colours = re.compile(r"--([\w-]+): (#\w+);")
    own = colours.findall(FILES["/page.css"])
    assert own == colours.findall(report)[: len(own)]
    assert len(own) > 30
