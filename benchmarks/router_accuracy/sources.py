"""The domains' own questions and the prompts that people wrote, as texts with a label."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from moe_ray.config.schema import OTHER
from moe_ray.domains.sources import read_file
from moe_ray.texts.labelled import LabelledText

DOMAINS = ("biomedical", "legal", "code")
LABELS = (*DOMAINS, OTHER)

# Two sources of each domain: what differs between the sources of one domain is not the domain.
OWN_SOURCES: Mapping[str, tuple[str, str]] = {
    "biomedical": ("PubMedQA", "MedQuAD"),
    "legal": ("statute questions", "LearnedHands"),
    "code": ("CodeAlpaca", "MBPP"),
}
FILES: Mapping[str, str] = {
    "PubMedQA": "biomedical/pubmedqa_dev500.json",
    "MedQuAD": "biomedical/medquad_4000.jsonl",
    "statute questions": "legal/indian_statute_qa.jsonl",
    "LearnedHands": "legal/learned_hands_posts.jsonl",
    "MBPP": "code/mbpp_train_prompt474.jsonl",
    "CodeAlpaca": "code/new_codealpaca.json",
}
COLUMNS: Mapping[str, str] = {
    "PubMedQA": "QUESTION",
    "MedQuAD": "question",
    "statute questions": "question",
    "LearnedHands": "text",
    "MBPP": "text",
    "CodeAlpaca": "instruction",
}
PROMPTS_FILE = "router/reddit_prompts.jsonl"


def read_own(data: Path) -> dict[str, list[LabelledText]]:
    """Return the questions of the domains by source; of CodeAlpaca the instruction alone, without its input."""
    return {
        source: list(_questions(data / FILES[source], source, label))
        for label, sources in OWN_SOURCES.items()
        for source in sources
    }


def _questions(path: Path, source: str, label: str) -> Iterator[LabelledText]:
    for at, record in enumerate(read_file(path)):
        # Not the record's own id: MedQuAD's are not unique.
        yield LabelledText(id=f"{source}/{at}", text=record[COLUMNS[source]], label=label, source=source)


def read_prompts(data: Path) -> dict[str, list[LabelledText]]:
    """Return the noisy prompts by label: title and, under it, the text if there is one. `source` is the subreddit."""
    prompts: dict[str, list[LabelledText]] = {label: [] for label in LABELS}
    for record in read_file(data / PROMPTS_FILE):
        text = f"{record['title'].strip()}\n{record['selftext'].strip()}".strip()
        prompts[record["domain"]].append(
            LabelledText(id=f"prompts/{record['id']}", text=text, label=record["domain"], source=record["subreddit"])
        )
    return prompts


def style_only(text: str) -> str:
    """Return `text` with its letters as x or X and its digits as 0: length, case and punctuation are left."""
    return re.sub(r"\d", "0", re.sub(r"[^\W\d_]", lambda letter: "X" if letter[0].isupper() else "x", text))
