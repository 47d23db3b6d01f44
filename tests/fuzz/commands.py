"""Commands run in this process on damaged files, and what must hold however they end."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.commands import run

EXIT_CODES = {0, 1, 2}


def require_plain_end(*arguments: str) -> None:
    """Run a command; it must end with a known exit code, and with a message where it failed."""
    code, shown = run(*arguments)
    assert code in EXIT_CODES, (code, shown)
    assert "Traceback" not in shown, shown
    if code:
        assert "error: " in shown or "incomplete: " in shown, shown


@contextlib.contextmanager
def nothing_lost(folder: Path, *, but: Sequence[str] = ()) -> Iterator[None]:
    """Fail unless every file of `folder` is the same afterwards, those named by `but` left out."""
    before = _contents(folder)
    yield
    after = _contents(folder)
    changed = {name for name in before if after.get(name) != before[name]} - set(but)
    assert not changed, f"changed or gone: {sorted(changed)}"


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
