"""docs/reference/doctor.md lists every check as the code has it.

Write it again with `python -m tests.clusters.doctor.test_doctor_docs`.
"""

from itertools import groupby
from pathlib import Path

from moe_ray.clusters.doctor.checks import TOPICS, all_checks

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "doctor.md"
TITLES = {
    "limits": "Limits",
    "folders": "Folders",
    "packages": "Packages",
    "ray_setup": "Ray",
    "network": "Network",
    "gpus": "GPUs",
    "slurm": "SLURM",
    "experiment": "The experiment",
    "results": "Results",
    "compare": "Between nodes",
}
INTRODUCTION = """\
# Checks of the doctor

What `moe-ray doctor` checks ([how to use it](../how-to/doctor.md)). Ids are stable: scripts may rely on them. A failure
makes the exit code 1, a warning only with `--strict`. `moe-ray doctor --explain ID` prints the same text.
"""
JSON = """
## JSON

`moe-ray doctor --json` prints one object:

| key | meaning |
| --- | --- |
| `version` | version of this format: 1 |
| `elapsed_s`, `num_checks` | seconds in all, and number of checks |
| `groups` | equal nodes with their `findings`, the largest group first; the evidence is that of the first node |
| `failing_nodes` | nodes with a failure, for `sbatch --exclude` |
| `hung`, `slow_s` | checks that did not end in time; seconds of those that took more than one |

A finding has `check` (the id), `severity` (`failure` or `warning`), `what`, `evidence` and `command`.
"""


def page() -> str:
    parts = [INTRODUCTION]
    for topic, checks in groupby(all_checks(), key=lambda each: each.topic):
        parts.append(
            f"\n## {TITLES[topic]}\n\n"
            "| check | severity | what it finds | why it matters |\n| --- | --- | --- | --- |\n"
        )
        parts += [
            f"| `{each.id}` | {each.severity} | {each.title} | {' '.join(each.explanation.split())} |\n"
            for each in checks
        ]
    return "".join([*parts, JSON])


def test_every_topic_has_a_title() -> None:
    assert tuple(TITLES) == TOPICS


def test_the_page_of_checks_is_what_the_code_has() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.clusters.doctor.test_doctor_docs"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
