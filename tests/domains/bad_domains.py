"""Wrong domains as data: the section, the files beside it, and what the message must say."""

import json
from dataclasses import dataclass, field
from typing import Any

from moe_ray.errors import ConfigError, DataError, UserError

from .records import hub_pubmedqa, law_question, mbpp_task


def lines(*records: Any) -> str:
    return "\n".join(json.dumps(record) for record in records)


def decision(*records: dict[str, Any], **section: Any) -> dict[str, Any]:
    return {
        "section": {"task": "decision", "choices": ["a", "b"], **section},
        "files": {"d.jsonl": lines(*records)},
    }


ROW = {"id": "r1", "question": "Q?", "label": "a"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BadDomain:
    """`section` is the domain's (its data.source is ./d.jsonl unless it says otherwise)."""

    name: str
    kind: type[UserError]
    what: str
    where: str = ""
    remedy: str = ""
    section: dict[str, Any] = field(default_factory=lambda: {"task": "pubmedqa"})
    files: dict[str, str] = field(default_factory=dict)


BAD_DOMAINS = [
    BadDomain(name="missing file", kind=DataError, what="no such file", where="d.jsonl", remedy="relative paths"),
    BadDomain(
        name="a folder",
        kind=DataError,
        what="folder",
        section={"task": "mbpp", "data": {"source": "./"}},
        where="",
    ),
    BadDomain(
        name="unknown file format",
        kind=DataError,
        what="'.txt'",
        section={"task": "mbpp", "data": {"source": "./d.txt"}},
        files={"d.txt": "x"},
        remedy=".jsonl",
    ),
    BadDomain(
        name="malformed JSON line",
        kind=DataError,
        what="malformed JSON",
        where="d.jsonl:2",
        files={"d.jsonl": lines(hub_pubmedqa()) + "\n{'a': 1}"},
    ),
    BadDomain(
        name="malformed JSON file",
        kind=DataError,
        what="malformed JSON",
        where="d.json:3",
        section={"task": "pubmedqa", "data": {"source": "./d.json"}},
        files={"d.json": '[\n{"id": 1},\n{"id": }]'},
    ),
    BadDomain(name="a line that is no object", kind=DataError, what="int", where="d.jsonl:1", files={"d.jsonl": "7"}),
    BadDomain(
        name="a JSON file of no records",
        kind=DataError,
        what="holds str",
        section={"task": "pubmedqa", "data": {"source": "./d.json"}},
        files={"d.json": '"x"'},
    ),
    BadDomain(
        name="a key twice",
        kind=DataError,
        what="'7' is there twice",
        section={"task": "pubmedqa", "data": {"source": "./d.json"}},
        files={"d.json": '{"7": {"a": 1}, "7": {"a": 2}}'},
    ),
    BadDomain(
        name="not UTF-8",
        kind=DataError,
        what="not UTF-8 at byte 0",
        where="d.csv",
        section={"task": "free_text", "data": {"source": "./d.csv"}},
        files={"d.csv": "\udcff\udcfe"},
    ),
    BadDomain(
        name="a CSV row of too many cells",
        kind=DataError,
        what="number of cells",
        where="d.csv:3",
        section={"task": "free_text", "data": {"source": "./d.csv"}},
        files={"d.csv": "id,question,reference\n1,a,b\n2,a,b,c\n"},
    ),
    BadDomain(
        name="not a Parquet file",
        kind=DataError,
        what="not a readable Parquet file",
        section={"task": "free_text", "data": {"source": "./d.parquet"}},
        files={"d.parquet": "PAR1 no"},
    ),
    BadDomain(name="empty file", kind=DataError, what="empty", where="d.jsonl", files={"d.jsonl": "\n\n"}),
    BadDomain(
        name="no question has an answer",
        kind=DataError,
        what="'no answer': 1",
        section={"task": "law_stackexchange"},
        files={"d.jsonl": lines(law_question(answers=[]))},
    ),
    BadDomain(
        name="missing column",
        kind=DataError,
        what="record 7 has no column question or QUESTION",
        where="domains.field.columns.question",
        remedy="available: pubid",
        files={"d.jsonl": lines({"pubid": 7, "final_decision": "yes", "long_answer": "x", "context": ["y"]})},
    ),
    BadDomain(
        name="a mapped column that is not there",
        kind=DataError,
        what="no column tittle",
        where="domains.field.columns.question",
        remedy="available: id, question, label",
        **decision(ROW, columns={"question": "tittle"}),
    ),
    BadDomain(
        name="an optional column that is named and not there",
        kind=DataError,
        what="no column abstract",
        **decision(ROW, columns={"context": "abstract"}),
    ),
    BadDomain(
        name="an empty column", kind=DataError, what="the question is empty", **decision({**ROW, "question": None})
    ),
    BadDomain(name="an empty id", kind=DataError, what="no id", **decision({**ROW, "id": " "})),
    BadDomain(
        name="a role that the task has not",
        kind=ConfigError,
        what="no 'lable' among its columns",
        where="domains.field.columns.lable",
        remedy="did you mean label?",
        **decision(ROW, columns={"lable": "x"}),
    ),
    BadDomain(
        name="duplicate ids", kind=DataError, what="'r1'", remedy="columns", **decision(ROW, {**ROW, "label": "b"})
    ),
    BadDomain(
        name="a label that is no choice",
        kind=DataError,
        what="record r1: the label 'c' is not one of the choices",
        where="domains.field.choices",
        remedy="a, b",
        **decision({**ROW, "label": "c"}),
    ),
    BadDomain(
        name="a PubMedQA decision that is none",
        kind=DataError,
        what="record 7: the decision is 'perhaps'",
        files={"d.jsonl": lines({**hub_pubmedqa(), "final_decision": "perhaps"})},
    ),
    BadDomain(
        name="a context without paragraphs",
        kind=DataError,
        what="record 7: its context holds no paragraphs",
        files={"d.jsonl": lines({**hub_pubmedqa(), "context": {"contexts": []}})},
    ),
    BadDomain(
        name="one choice",
        kind=ConfigError,
        what="two or more different choices",
        where="domains.field.choices",
        **decision(ROW, choices=["a", "A"]),
    ),
    BadDomain(
        name="a template with an unknown column",
        kind=DataError,
        what="{tittle}",
        where="domains.field.prompt.template",
        remedy="available: choices, context, id, label, question",
        **decision(ROW, prompt={"template": "{tittle}"}),
    ),
    BadDomain(
        name="a template of a published task with an unknown value",
        kind=ConfigError,
        what="{long_answer}",
        where="domains.field.prompt.completion_template",
        remedy="available: context, question",
        section={"task": "pubmedqa", "prompt": {"completion_template": "{long_answer}"}},
        files={"d.jsonl": lines(hub_pubmedqa())},
    ),
    BadDomain(
        name="a template with a lone brace",
        kind=ConfigError,
        what="malformed template",
        where="domains.field.prompt.template",
        remedy="{{ }}",
        **decision(ROW, prompt={"template": "{question"}),
    ),
    BadDomain(
        name="a template with a format",
        kind=ConfigError,
        what="the name of a column and nothing else",
        **decision(ROW, prompt={"template": "{question!r:>10}"}),
    ),
    BadDomain(
        name="ids_file without matches",
        kind=DataError,
        what="none of the 2 ids",
        section={"task": "pubmedqa", "data": {"source": "./d.jsonl", "ids_file": "ids.txt"}},
        files={"d.jsonl": lines(hub_pubmedqa()), "ids.txt": "1\n2"},
    ),
    BadDomain(
        name="no ids_file there",
        kind=DataError,
        what="no such file",
        where="ids.txt",
        section={"task": "pubmedqa", "data": {"source": "./d.jsonl", "ids_file": "ids.txt"}},
        files={"d.jsonl": lines(hub_pubmedqa())},
    ),
    BadDomain(
        name="an empty ids_file",
        kind=DataError,
        what="lists no ids",
        section={"task": "pubmedqa", "data": {"source": "./d.jsonl", "ids_file": "ids.txt"}},
        files={"d.jsonl": lines(hub_pubmedqa()), "ids.txt": "\n"},
    ),
    BadDomain(
        name="unknown task",
        kind=ConfigError,
        what="unknown task 'pubmed'",
        where="domains.field.task",
        remedy="did you mean pubmedqa?",
        section={"task": "pubmed"},
    ),
    BadDomain(
        name="a class of no module",
        kind=ConfigError,
        what="cannot import 'no_such_module'",
        section={"task": "no_such_module:Poems"},
    ),
    BadDomain(
        name="a class that the module has not",
        kind=ConfigError,
        what="moe_ray.domains.law_stackexchange has no 'LawExchange'",
        remedy="LawStackExchange",
        section={"task": "moe_ray.domains.law_stackexchange:LawExchange"},
    ),
    BadDomain(
        name="a class that is no task",
        kind=ConfigError,
        what="is not a task",
        remedy="Task",
        section={"task": "moe_ray.prompts.messages:Template"},
    ),
    BadDomain(
        name="a setting that the task has not",
        kind=ConfigError,
        what="no 'shot_file' among its settings",
        remedy="did you mean shots_file?",
        section={"task": "mbpp", "settings": {"shot_file": "x"}},
    ),
    BadDomain(
        name="a shots_file without the shots",
        kind=DataError,
        what="does not hold the tasks 2, 3, 4",
        where="shots.jsonl",
        section={"task": "mbpp", "settings": {"shots_file": "shots.jsonl"}},
        files={"d.jsonl": lines(mbpp_task(11)), "shots.jsonl": lines(mbpp_task(2))},
    ),
    BadDomain(
        name="tests that are no texts",
        kind=DataError,
        what="record 11: its tests are int",
        section={"task": "mbpp"},
        files={"d.jsonl": lines(mbpp_task(11, test_list=3))},
    ),
    BadDomain(
        name="answers without a score",
        kind=DataError,
        what="record 1: an answer has no score",
        section={"task": "law_stackexchange"},
        files={"d.jsonl": lines(law_question(answers=[{"answer_id": 1, "body": "x"}]))},
    ),
    BadDomain(
        name="answers that are no list",
        kind=DataError,
        what="record 1: answers is str",
        section={"task": "law_stackexchange"},
        files={"d.jsonl": lines(law_question(answers="none"))},
    ),
]
