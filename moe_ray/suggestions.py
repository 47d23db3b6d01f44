"""Suggest the nearest known name for an unknown one."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that is spelled most like `name`, whatever its case; None if none is near."""
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean KNOWN?", or nothing where no name is near."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


def choice_of(name: str, known: Iterable[str]) -> str:
    """Return a remedy for the unknown `name`: the nearest of `known`, then all of them."""
    names = sorted(known)
    near = nearest(name, names)
    return f"did you mean {near}? known: {', '.join(names)}" if near else f"known: {', '.join(names)}"
