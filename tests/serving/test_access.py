"""Who may ask: keys, Host and Origin."""

import hmac
import os
from pathlib import Path

import pytest

from moe_ray.errors import ConfigError
from moe_ray.serving.access import AccessGate, read_keys
from moe_ray.serving.calls import ApiError

KEYS = ("first-key-of-three", "second-key-of-three", "third-key-of-three")


def keys_file(folder: Path, content: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.fixture
def gate(tmp_path: Path) -> AccessGate:
    lines = "# for the tests\n\n" + "".join(f"  {key}  \n" for key in KEYS)
    return AccessGate(read_keys(keys_file(tmp_path, lines)), ())


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("spelling", ["Bearer {}", "bearer {}", "BEARER   {} "])
def test_every_key_of_the_file_opens_as_a_bearer(gate: AccessGate, key: str, spelling: str) -> None:
    gate.require_key({"authorization": spelling.format(key)})


def test_a_key_opens_as_x_api_key_whatever_the_other_header_says(gate: AccessGate) -> None:
    gate.require_key({"x-api-key": KEYS[1]})
    gate.require_key({"x-api-key": KEYS[1], "authorization": "Bearer not-a-known-key"})
    gate.require_key({"x-api-key": "not-a-known-key", "authorization": f"Bearer {KEYS[2]}"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer"},
        {"authorization": KEYS[0]},
        {"authorization": f"Basic {KEYS[0]}"},
        {"authorization": f"Bearer {KEYS[0]}x"},
        {"authorization": f"Bearer {KEYS[0][:-1]}"},
        {"authorization": "Bearer # for the tests"},
        {"authorization": "Bearer caf\xe9-\udcff"},
        {"x-api-key": ""},
        {"x-api-key": f"Bearer {KEYS[0]}"},
    ],
)
def test_anything_else_is_refused_as_openai_refuses_it(gate: AccessGate, headers: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        gate.require_key(headers)
    assert (refused.value.status, refused.value.kind, refused.value.code) == (
        401,
        "authentication_error",
        "invalid_api_key",
    )
    assert not any(key in refused.value.message for key in KEYS)


def test_without_keys_everybody_may_ask_also_with_an_empty_bearer() -> None:
    AccessGate((), ()).require_key({"authorization": "Bearer "})


@pytest.mark.parametrize("given", [*KEYS, "an-unknown-key"])
def test_every_known_key_is_compared_whichever_was_given(
    gate: AccessGate, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", counted)
    if given in KEYS:
        gate.require_key({"x-api-key": given})
    else:
        with pytest.raises(ApiError):
            gate.require_key({"x-api-key": given})
    assert len(set(compared)) == len(compared) == len(KEYS)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=r"other users.*\n.*chmod 600"):
        read_keys(keys_file(tmp_path, KEYS[0], mode))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        (f"{KEYS[0]}\nt00-few\n", "key 2 is not 16 or more"),
        ("a key with some bl4nks\n", "key 1 is not 16 or more"),
        ("caf\xe9-is-not-of-ascii\n", "key 1 is not 16 or more"),
    ],
)
def test_a_file_without_a_good_key_is_refused_and_no_key_is_shown(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        read_keys(keys_file(tmp_path, content))
    assert not any(word in str(refused.value) for word in ("t00-few", "bl4nks", "caf", KEYS[0]))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")
    path = keys_file(tmp_path, "")
    path.write_bytes(os.urandom(8) + b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(path)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
        "moe.test",
        "[fe80::1]:1",
    ],
)
def test_a_host_of_this_server_passes(host: str) -> None:
    AccessGate((), ("Moe.Test", "[fe80::1]")).require_host({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.test",
        "evil.test:8000",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "localhost@evil.test",
        "[::2]:8000",
        "[::1",
        "http://[",
        "2130706433",
    ],
)
def test_another_host_is_refused_so_that_a_rebound_name_reaches_nothing(host: str) -> None:
    with pytest.raises(ApiError) as refused:
        AccessGate((), ("moe.test",)).require_host({"host": host})
    assert (refused.value.status, refused.value.code) == (403, "host_not_allowed")
    assert not host or host not in refused.value.message


def test_a_request_without_a_host_is_refused() -> None:
    with pytest.raises(ApiError, match="Host"):
        AccessGate((), ()).require_host({})


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("moe.test", "https://moe.test"),
        ("Moe.Test:1", "http://moe.test:1"),
    ],
)
def test_a_page_of_this_server_may_ask(host: str, origin: str) -> None:
    AccessGate((), ("moe.test",)).require_host({"host": host, "origin": origin})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.test",
        "http://localhost:8001",
        "http://localhost",
        "null",
        "",
        "http://[",
        "file://",
        "localhost:8000",
    ],
)
@pytest.mark.parametrize("hosts", [(), ("0.0.0.0",), ("::",)])
def test_a_page_of_another_origin_may_not_ask_even_where_any_host_is_answered(
    origin: str, hosts: tuple[str, ...]
) -> None:
    with pytest.raises(ApiError) as refused:
        AccessGate((), hosts).require_host({"host": "localhost:8000", "origin": origin})
    assert (refused.value.status, refused.value.code) == (403, "origin_not_allowed")


@pytest.mark.parametrize("any_host", ["0.0.0.0", "::"])
def test_a_server_that_is_open_to_the_network_answers_to_any_name(any_host: str) -> None:
    AccessGate((), (any_host,)).require_host({"host": "what.ever"})
