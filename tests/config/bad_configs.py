"""Wrong experiment files as data: what is written, and what the message must say about where, what and the remedy."""

from dataclasses import dataclass

# Line by line, so that the cases below can count: models 2-6, baseline 7, domains 8-12.
GOOD = """\
name: good
models:
  general: {path: org/general}
  mediphi:
    path: org/mediphi
    dtype: float32
baseline: general
domains:
  biomedical:
    task: pubmedqa
    expert: mediphi
    data: {source: org/data}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadConfig:
    """`where` is the end of the error's place, after the file's path; `what` and `remedy` are parts of its text.

    `{file}` in `what` stands for the file.
    """

    name: str
    text: str
    where: str
    what: str
    remedy: str = ""


def changed(old: str, new: str) -> str:
    """Return the good file with one change."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


BAD_CONFIGS = (
    # A section that may stand in place of a text is wrong inside.
    BadConfig(
        name="grader without a name",
        text=GOOD + "    graders: [{settings: {read: boxed}}]\n",
        where=":13: domains.biomedical.graders.0.name",
        what="missing",
        remedy="evaluate:NAME",
    ),
    BadConfig(
        name="misspelt key of a grader",
        text=GOOD + "    graders: [{name: decision, setings: {}}]\n",
        where=":13: domains.biomedical.graders.0.setings",
        what="did you mean settings?",
    ),
    BadConfig(
        name="unknown word for reasoning",
        text=changed("    dtype: float32", "    reasoning: yes"),
        where=":6: models.mediphi.reasoning",
        what="must be auto or none or a section with keys, not yes",
    ),
    BadConfig(
        name="reasoning without its closing mark",
        text=changed("    dtype: float32", "    reasoning: {open: <r>}"),
        where=":6: models.mediphi.reasoning.close",
        what="missing",
        remedy="the mark that ends it",
    ),
    # What is no YAML, or no experiment at all.
    BadConfig(name="empty", text="", where="", what="the file is empty", remedy="moe-ray init"),
    BadConfig(name="only comments", text="# nothing\n", where="", what="the file is empty", remedy="moe-ray init"),
    BadConfig(name="a list", text="- a\n- b\n", where=":1", what="holds a list", remedy="begin with `name:"),
    BadConfig(name="a word", text="hello\n", where=":1", what="holds a single value", remedy="begin with `name:"),
    BadConfig(name="tab", text=GOOD + "decoding:\n\tseed: 1\n", where=":14", what="a tab", remedy="spaces"),
    BadConfig(name="open bracket", text=GOOD + "decoding: {seed: 1\n", where=":14", what="no YAML", remedy="brackets"),
    BadConfig(name="open quote", text=GOOD + 'description: "a\n', where=":14", what="no YAML", remedy="quotes"),
    BadConfig(
        name="colon in text",
        text=GOOD + "description: first: second\n",
        where=":13",
        what="a second `key: value`",
        remedy="in quotes",
    ),
    BadConfig(name="two documents", text=GOOD + "---\nname: b\n", where=":13", what="second document", remedy="`---`"),
    BadConfig(
        name="control character",
        text=GOOD + "description: a\x07b\n",
        where=":13",
        what="control character",
        remedy="remove",
    ),
    BadConfig(name="undefined alias", text=GOOD + "decoding: *no\n", where=":13", what="undefined alias 'no'"),
    BadConfig(
        name="recursion", text=GOOD + "decoding: &a {b: *a}\n", where=":13: decoding.b", what="contain themselves"
    ),
    BadConfig(name="python tag", text=GOOD + "description: !!python/none\n", where=":13: description", what="tag"),
    BadConfig(
        name="merge of text", text=GOOD + "decoding:\n  <<: 3\n", where=":14: decoding", what="<< needs a mapping"
    ),
    BadConfig(
        name="list as key", text=GOOD + "? [a]\n: b\n", where=":13", what="where a key is wanted", remedy="quotes"
    ),
    BadConfig(
        name="key twice",
        text=changed("    dtype: float32\n", "    dtype: float32\n    dtype: float16\n"),
        where=":7: models.mediphi.dtype",
        what="given twice; the first is in line 6",
        remedy="keep one",
    ),
    # Keys.
    BadConfig(
        name="misspelt key",
        text=changed("dtype:", "dtyp:"),
        where=":6: models.mediphi.dtyp",
        what="unknown key; did you mean dtype?",
    ),
    BadConfig(
        name="misspelt key of a section under its old name",
        text=GOOD + "router:\n  foreign:\n    kep: 0.9\n",
        where=":15: router.foreign.kep",
        what="unknown key; did you mean keep?",
    ),
    BadConfig(
        name="misspelt section",
        text=changed("models:", "modles:"),
        where="",
        what="{file}:2: modles: unknown key; did you mean models?",
    ),
    BadConfig(
        name="key at the wrong level",
        text=GOOD + "temperature: 1.0\n",
        where=":13: temperature",
        what="did you mean decoding.temperature?",
    ),
    BadConfig(
        name="unheard-of key",
        text=GOOD + "output:\n  zzz: 1\n",
        where=":14: output.zzz",
        what="unknown key",
        remedy="results_dir",
    ),
    BadConfig(
        name="results at an address",
        text=GOOD + "output:\n  results_dir: s3://bucket/runs\n",
        where=":14: output.results_dir",
        what="is an address, not a folder; moe-ray submit",
    ),
    BadConfig(
        name="key in a flow mapping",
        text=changed("{source: org/data}", "{source: org/data, spilt: test}"),
        where=":12: domains.biomedical.data.spilt",
        what="did you mean split?",
    ),
    BadConfig(name="no name", text=changed("name: good\n", ""), where=":1: name", what="missing", remedy="add name"),
    BadConfig(
        name="model without path",
        text=changed("path: org/mediphi", "revision: main"),
        where=":4: models.mediphi.path",
        what="missing",
        remedy="hub id",
    ),
    BadConfig(
        name="no models",
        text=changed("  general: {path: org/general}\n", "").replace(
            "  mediphi:\n    path: org/mediphi\n    dtype: float32\n", ""
        ),
        where=":2: models",
        what="at least one entry",
    ),
    # Values.
    BadConfig(
        name="unknown dtype",
        text=changed("float32", "bfloat61"),
        where=":6: models.mediphi.dtype",
        what="must be auto, float32, bfloat16 or float16, not bfloat61; did you mean bfloat16?",
    ),
    BadConfig(
        name="text for a number",
        text=GOOD + "decoding: {max_new_tokens: many}\n",
        where=":13: decoding.max_new_tokens",
        what="must be a whole number, not many",
    ),
    BadConfig(
        name="quoted number",
        text=GOOD + 'decoding: {max_new_tokens: "256"}\n',
        where=":13: decoding.max_new_tokens",
        what='must be a whole number, not the text "256"',
    ),
    BadConfig(
        name="fraction of a token",
        text=GOOD + "decoding: {max_new_tokens: 1.5}\n",
        where=":13: decoding.max_new_tokens",
        what="must be a whole number, not 1.5",
    ),
    BadConfig(
        name="true for a number",
        text=GOOD + "decoding: {seed: true}\n",
        where=":13: decoding.seed",
        what="a whole number, not true",
    ),
    BadConfig(
        name="out of bounds",
        text=GOOD + "decoding:\n\n  max_new_tokens: 0\n",
        where=":15: decoding.max_new_tokens",
        what="must be at least 1, not 0",
    ),
    BadConfig(
        name="too many tokens",
        text=GOOD + "decoding: {max_new_tokens: 1000001}\n",
        where=":13: decoding.max_new_tokens",
        what="must be at most 1000000, not 1000001",
    ),
    BadConfig(
        name="lines for a word",
        text=changed("dtype: float32", "dtype: |\n      float\n      32\n"),
        where=":6: models.mediphi.dtype",
        what="not float\\n32",
    ),
    BadConfig(
        name="negative gpus",
        text=changed("dtype: float32", "gpus: -1"),
        where=":6: models.mediphi.gpus",
        what="must be auto or at least 0, not -1",
    ),
    BadConfig(
        name="one and a half gpus",
        text=changed("dtype: float32", "gpus: 1.5"),
        where=":6: models.mediphi.gpus",
        what="a whole number, not 1.5",
    ),
    BadConfig(
        name="infinity",
        text=GOOD + "decoding: {temperature: 1e999}\n",
        where=":13: decoding.temperature",
        what="a number",
    ),
    BadConfig(
        name="number for a switch", text=GOOD + "likelihood: 2\n", where=":13: likelihood", what="true or false, not 2"
    ),
    BadConfig(
        name="text for a list",
        text=changed("task: pubmedqa", "task: pubmedqa\n    graders: decision"),
        where=":11: domains.biomedical.graders",
        what="must be a list, not decision",
    ),
    BadConfig(
        name="text for a section",
        text=GOOD + "decoding: greedy\n",
        where=":13: decoding",
        what="must be a section with keys, not greedy",
    ),
    BadConfig(
        name="template without quotes",
        text=GOOD + "    prompt:\n      template: {question}\n",
        where=":14: domains.biomedical.prompt.template",
        what="must be text, not a section",
        remedy="in quotes",
    ),
    BadConfig(
        name="name with a slash", text=changed("name: good", "name: a/b"), where=":1: name", what="letters, digits"
    ),
    BadConfig(
        name="model name with a blank",
        text=changed("  mediphi:", "  medi phi:"),
        where=":4: models.medi phi",
        what="the key is not a name",
    ),
    BadConfig(
        name="samples at temperature 0",
        text=GOOD + "decoding:\n  samples_per_example: 4\n",
        where=":14: decoding.samples_per_example",
        what="temperature 0",
    ),
    BadConfig(
        name="nothing given",
        text=changed("task: pubmedqa", "task:"),
        where=":10: domains.biomedical.task",
        what="must be text, not nothing",
    ),
    # Between the keys.
    BadConfig(
        name="unknown baseline",
        text=changed("baseline: general", "baseline: generl"),
        where=":7: baseline",
        what="no model is named generl; did you mean general?",
        remedy="models: general, mediphi",
    ),
    BadConfig(
        name="unknown expert",
        text=changed("expert: mediphi", "expert: medphi"),
        where=":11: domains.biomedical.expert",
        what="did you mean mediphi?",
    ),
    BadConfig(
        name="unanswered domain",
        text=changed("baseline: general\n", "").replace("  general: {path: org/general}\n", "")
        + "  code: {task: mbpp, data: {source: org/data}}\n",
        where=":11: domains.code",
        what="no model answers this domain",
        remedy="matrix: full",
    ),
    BadConfig(
        name="unused model",
        text=changed("    expert: mediphi\n", ""),
        where=":4: models.mediphi",
        what="answers no domain",
        remedy="matrix: full",
    ),
    BadConfig(
        name="unknown task",
        text=changed("pubmedqa", "pubmed_qa"),
        where=":10: domains.biomedical.task",
        what="did you mean pubmedqa?",
        remedy="module:Class",
    ),
    BadConfig(
        name="unknown engine",
        text=changed("dtype: float32", "engine: transfomers"),
        where=":6: models.mediphi.engine",
        what="did you mean transformers?",
        remedy="module:Class",
    ),
    BadConfig(
        name="decision without choices",
        text=changed("task: pubmedqa", "task: decision"),
        where=":9: domains.biomedical.choices",
        what="at least two choices, and has 0",
        remedy="choices: [",
    ),
    BadConfig(
        name="choice twice",
        text=changed("task: pubmedqa", "task: decision\n    choices: [Yes, yes]"),
        where=":11: domains.biomedical.choices",
        what="given twice",
    ),
    BadConfig(
        name="choices that nobody reads",
        text=changed("task: pubmedqa", "task: mbpp\n    choices: [a, b]"),
        where=":11: domains.biomedical.choices",
        what="task mbpp takes no choices",
        remedy="task: decision",
    ),
    BadConfig(
        name="unknown key in a list",
        text=GOOD + "router:\n  other: [{source: org/others, file: a}]\n",
        where=":14: router.other.0.file",
        what="unknown key",
        remedy="known here: source, column",
    ),
)
