"""Small records in the published formats, made for the tests, and short ways to load them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import LoadedDomain, load_domain

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


POEMS = """
from moe_ray.domains.example import Example
from moe_ray.prompts.messages import Message, Prompt

class Poems:
    default_graders = ("rouge_l",)

    def __init__(self, name, config):
        self.name, self.settings = name, config.settings

    def examples(self, records):
        for record in records:
            prompt = Prompt(messages=(Message(role="user", content=record["first"]),), reference=record["second"])
            prompts = {"chat": prompt, "completion": prompt}
            yield Example(id=record["id"], domain=self.name, prompts=prompts, reference=record["second"])
"""

LINES = [{"id": f"p{number}", "first": f"rose {number}", "second": "red"} for number in range(20)]


def shared(path: str) -> str:
    """Return the path of a real data file, or skip the test where there is none."""
    file = (SHARED_DATA / path).resolve()
    if not file.is_file():
        pytest.skip(f"no real data: {path}")
    return str(file)


def write_jsonl(path: Path, records: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def load(folder: Path, records: Sequence[dict[str, Any]], task: str, **config: Any) -> LoadedDomain:
    """Load `records` as a local file of `folder`."""
    write_jsonl(folder / "records.jsonl", records)
    section = {"task": task, "data": {"source": "./records.jsonl"}, **config}
    return load_domain("field", DomainConfig.model_validate(section), folder)


def text_of(example: Example, style: str) -> str:
    """Return the whole text of a prompt, all messages together."""
    prompts = {str(key): prompt for key, prompt in example.prompts.items()}
    return "\n".join(message.content for message in prompts[style].messages)


def by_id(domain: LoadedDomain) -> dict[str, Example]:
    return {example.id: example for example in domain.examples}


def authors_pubmedqa(decision: str = "yes") -> dict[str, Any]:
    return {
        "QUESTION": "Does zeta cure omega?",
        "CONTEXTS": ["Forty mice had omega.", "Half of them got zeta."],
        "LABELS": ["SECRETBACKGROUND", "SECRETRESULTS"],
        "reasoning_required_pred": "SECRETPRED",
        "reasoning_free_pred": "SECRETFREE",
        "LONG_ANSWER": "SECRETCONCLUSION zeta cures it.",
        "final_decision": decision,
    }


def hub_pubmedqa(pubid: int = 7) -> dict[str, Any]:
    return {
        "pubid": pubid,
        "question": "Does zeta cure omega?",
        "context": {
            "contexts": ["Forty mice had omega.", "Half of them got zeta."],
            "labels": ["SECRETBACKGROUND", "SECRETRESULTS"],
            "meshes": ["SECRETMESH"],
            "reasoning_required_pred": ["SECRETPRED"],
            "reasoning_free_pred": ["SECRETFREE"],
        },
        "long_answer": "SECRETCONCLUSION zeta cures it.",
        "final_decision": "yes",
    }


def law_question(question_id: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "tags": ["contract"],
        "score": 3,
        "license": "CC BY-SA 4.0",
        "question_title": "Is an oral lease binding?",
        "question_body": "<p>My landlord says <b>no</b>.</p>",
        "link": "https://example.org/1",
        "answers": [
            {"answer_id": 12, "score": 5, "body": "<p>The later of the best.</p>"},
            {"answer_id": 11, "score": 5, "body": "<p>The first of the best.</p>"},
            {"answer_id": 10, "score": -2, "body": "<p>The worst.</p>"},
        ],
        **changes,
    }


def mbpp_task(task_id: int, **changes: Any) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "text": f"Write a function to add {task_id}.",
        "code": f"def add(x):\r\n    return x + {task_id}",
        "test_setup_code": "",
        "test_list": [f"assert add(0) == {task_id}", f"assert add(1) == {task_id + 1}"],
        "challenge_test_list": [],
        **changes,
    }
