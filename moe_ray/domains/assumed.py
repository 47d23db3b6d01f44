"""Examples that stand for a data set that cannot be reached, so that a run elsewhere can be planned without it."""

from pathlib import Path

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, Message, Prompt
from moe_ray.domains.loading import LoadedDomain, importable, listed_ids, make_task

ASSUMED_EXAMPLES = 1_000
# Examples of the published splits that the tasks are named after.
PUBLISHED_EXAMPLES = {"pubmedqa": 1_000, "mbpp": 500, "math": 1_319}
ASSUMED_CHARACTERS = 2_000
_ASSUMED = "assumed"


def assume_domain(name: str, config: DomainConfig, base_dir: Path) -> LoadedDomain:
    """Return `config`'s domain with made-up examples: as many as its limit or ids file allows, of one length.

    Without either it has the number of the published split, or `ASSUMED_EXAMPLES`. Reads no data but the ids file.
    """
    with importable(base_dir):
        task = make_task(name, config, base_dir)
        listed = listed_ids(config, base_dir)
    available = PUBLISHED_EXAMPLES.get(config.task, ASSUMED_EXAMPLES) if listed is None else len(listed)
    number = min(available, config.max_examples or available)
    prompt = Prompt(messages=(Message(role="user", content="x" * ASSUMED_CHARACTERS),), reference="x")
    examples = (
        Example(id=f"assumed-{index}", domain=name, prompts={"chat": prompt, "completion": prompt}, reference="x")
        for index in range(number)
    )
    return LoadedDomain(
        examples=tuple(examples),
        task=task,
        data_fingerprint={"source": config.data.source, _ASSUMED: True, "num_examples": number},
        graders=tuple(task.default_graders if config.grader_names is None else config.grader_names),
    )


def is_assumed(domain: LoadedDomain) -> bool:
    """Say whether `assume_domain` made the domain up."""
    return _ASSUMED in domain.data_fingerprint
