"""PubMedQA: a question and the paragraphs of an abstract without its conclusion; the answer is yes, no or maybe.

Both published formats load: the authors' `ori_pqal.json` (an object by PMID) and the hub's `pqa_labeled`. A prompt
holds the question and the paragraphs and nothing else: the labels of the sections, the annotators' predictions and
the conclusion (`long_answer`) give the answer away.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, Record
from moe_ray.domains.record_task import RecordTask
from moe_ray.errors import DataError
from moe_ray.prompts.messages import as_text

CHOICES = ("yes", "no", "maybe")

CHAT = """\
Here is the abstract of a biomedical study, without its conclusion.

{context}

Question: {question}

Begin your answer with one word: yes, no or maybe. Then explain it in one or two sentences."""

COMPLETION = """\
Abstract: {context}

Question: {question} (yes, no or maybe)

Answer:"""


class PubMedQA(RecordTask):
    """PubMedQA in its reasoning-required setting. Templates may name {question} and {context}."""

    default_graders = ("decision", "decision_loglik", "rouge_l", "bits_per_byte")
    chat_default = CHAT
    completion_default = COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("pubid", "id"),
        "question": ("question", "QUESTION"),
        "context": ("context", "CONTEXTS"),
        "label": ("final_decision",),
        "reference": ("long_answer", "LONG_ANSWER"),
    }

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._chat = self.template("template", self.chat_default, ("question", "context"))
        self._completion = self.template("completion_template", self.completion_default, ("question", "context"))

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one record into its example. The reference is the long answer, the label the final decision."""
        label = self.text(record, "label").lower()
        if label not in CHOICES:
            raise DataError(
                f"record {example_id}: the decision is {label!r}, not one of {', '.join(CHOICES)}",
                where=self.where("data"),
                remedy="fix or remove that record",
            )
        reference = self.text(record, "reference")
        asked = {"question": self.text(record, "question"), "context": self._paragraphs(example_id, record)}
        spaced = tuple(f" {choice}" for choice in CHOICES)
        return self.make(
            example_id,
            {
                "chat": self.chat(self._chat.render(asked), choices=CHOICES, reference=reference),
                "completion": self.completion(
                    self._completion.render(asked), choices=spaced, reference=f" {reference}", stop=("\n\nAbstract:",)
                ),
            },
            reference=reference,
            grading={"label": label, "choices": list(CHOICES), "question": asked["question"]},
        )

    def _paragraphs(self, example_id: str, record: Record) -> str:
        """Return the abstract's paragraphs. On the hub they lie among annotations that match the answer: a leak."""
        value: Any = self.value(record, "context")
        if isinstance(value, Mapping):
            value = value.get("contexts")
        if isinstance(value, str):
            return as_text(value).strip()
        if not isinstance(value, list) or not value:
            raise DataError(
                f"record {example_id}: its context holds no paragraphs",
                where=self.where("data"),
                remedy="a context is a list of paragraphs, or an object with such a list as contexts",
            )
        return "\n".join(as_text(paragraph).strip() for paragraph in value)
