"""What became of a run's data between two sessions, in sentences for its user.

The contents of a data set are not part of a run's identity: a run may grow, and a record that changed asks another
prompt, which is another cell. Nothing old is mixed with anything new, but the user should know.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import moe_ray
from moe_ray.domains.example import Example
from moe_ray.errors import RunDirectoryError
from moe_ray.store.run_directory import RunDirectory

MAX_SHOWN = 5
# What a domain's record in the manifest says of the data itself.
_DATA_KEYS = ("sha256", "revision", "resolved", "num_records")


def data_changes(
    run: RunDirectory, examples: Mapping[str, Sequence[Example]], data: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Compare `examples` with those of the run's last session; `data` are the fingerprints of the domains' data.

    Examples that are new, or no longer wanted, are not listed: the plan counts them. Nothing is read where the data and
    the version of moe_ray are those of the last session.
    """
    if not run.exists:
        return []
    manifest = run.manifest()
    is_same_version = manifest.moe_ray_version == moe_ray.__version__
    return [
        sentence
        for domain, members in examples.items()
        if domain in manifest.domains and not (is_same_version and _same(manifest.domains[domain], data[domain]))
        for sentence in _sentences(domain, members, _stored(run, domain))
    ]


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(old.get(key) == new.get(key) for key in _DATA_KEYS)


def _stored(run: RunDirectory, domain: str) -> dict[str, Example]:
    """The examples of the last session by id; none where they cannot be read: they are about to be written again."""
    try:
        return {example.id: example for example in run.each_example(domain)}
    except (RunDirectoryError, ValueError, LookupError, TypeError, AssertionError, OSError):
        return {}


def _sentences(domain: str, examples: Sequence[Example], stored: Mapping[str, Example]) -> Iterator[str]:
    changed = [example for example in examples if stored.get(example.id, example) != example]
    asked = [example.id for example in changed if _asked(example) != _asked(stored[example.id])]
    graded = [example.id for example in changed if example.id not in set(asked)]
    if asked:
        yield (
            f"The data of {domain} changed: {_some(asked)} of {len(examples)} examples ask something else than before. "
            "They are computed; the earlier answers to them no longer count."
        )
    if graded:
        yield (
            f"The data of {domain} changed: {_some(graded)} of {len(examples)} examples have another reference or "
            "label. Their answers are kept and graded again."
        )


def _asked(example: Example) -> dict[str, Any]:
    return {style: (prompt.messages, prompt.stop) for style, prompt in example.prompts.items()}


def _some(ids: Sequence[str]) -> str:
    more = ", ..." if len(ids) > MAX_SHOWN else ""
    return f"{len(ids)} ({', '.join(ids[:MAX_SHOWN])}{more})"
