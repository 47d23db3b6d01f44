"""Addresses and tokens: what is accepted, and the words for what is not."""

from pathlib import Path

import pytest

from moe_ray.clusters.ray_jobs.access import find_token, parse_address
from moe_ray.errors import UserError


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://localhost:8265", "http://localhost:8265"),
        ("http://127.0.0.1:8265/", "http://127.0.0.1:8265"),
        ("http://[::1]:8265", "http://[::1]:8265"),
        ("https://ray.example.org", "https://ray.example.org"),
    ],
)
def test_an_address_of_this_machine_or_with_tls_is_accepted(text: str, url: str) -> None:
    assert parse_address(text, insecure=False).url == url


@pytest.mark.parametrize(
    "text",
    ["", "localhost:8265", "ray://head:10001", "auto", "http://", "http://host:port", "http://a:1/x", "http://u:p@a:1",
     "http://[::1", "http://h:99999"],
)  # fmt: skip
def test_what_is_no_address_of_a_dashboard_is_refused_with_the_spelling(text: str) -> None:
    with pytest.raises(UserError, match=r"address|host and port") as raised:
        parse_address(text, insecure=True)
    assert "http://localhost:8265" in (raised.value.remedy or "")


def test_http_to_another_machine_needs_the_word_insecure() -> None:
    with pytest.raises(UserError, match="unencrypted") as raised:
        parse_address("http://head:8265", insecure=False)
    assert "ssh -N -L 8265:localhost:8265 head" in (raised.value.remedy or "")
    assert parse_address("http://head:8265", insecure=True).host == "head"


def token_file(folder: Path, text: str = "secret\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_file_that_is_named_comes_before_the_variables(tmp_path: Path) -> None:
    found = find_token(token_file(tmp_path), {"RAY_AUTH_TOKEN": "other", "RAY_AUTH_TOKEN_PATH": "/nowhere"})
    assert found.value == "secret"


def test_the_variables_of_ray_name_the_token_in_rays_order(tmp_path: Path) -> None:
    path = token_file(tmp_path)
    assert find_token(None, {"RAY_AUTH_TOKEN_PATH": str(path)}).value == "secret"
    assert find_token(None, {"RAY_AUTH_TOKEN_PATH": str(path), "RAY_AUTH_TOKEN": " other "}).value == "other"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("secret", 0o644, "other users"),
        ("", 0o600, "no token"),
        ("a b", 0o600, "no token"),
        ("\x00", 0o600, "no token"),
    ],
)
def test_a_token_file_that_others_read_or_that_holds_none_is_refused(
    tmp_path: Path, text: str, mode: int, words: str
) -> None:
    path = token_file(tmp_path, text, mode)
    with pytest.raises(UserError, match=words):
        find_token(path)


def test_a_missing_token_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="asks for a token") as raised:
        find_token(None, {})
    assert "RAY_AUTH_TOKEN_PATH" in (raised.value.remedy or "")
    with pytest.raises(UserError, match="cannot be read"):
        find_token(tmp_path / "missing")
