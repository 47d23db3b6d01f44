"""Sets of texts that experts are trained on and tested with: instructions for programs, sums worked out, reasoning.

coding      CodeAlpaca: instruction, input (may be empty), output. Nothing runs: an output has no tests
math        GSM8K: question, answer; the answer works the solution out and ends with `#### NUMBER`
reasoning   StrategyQA, as its authors publish it (question, answer, facts, decomposition) or as BIG-bench's task
            (input, target_scores, target); the answer is yes or no, and the reasons stand behind it

Without an id a record's id is a fingerprint of its content.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, Record
from moe_ray.domains.record_task import RecordTask
from moe_ray.errors import DataError
from moe_ray.prompts.messages import as_text

FINAL_MARK = "####"
CHOICES = ("yes", "no")

_NUMBER = re.compile(r"(?<![\w.])([-\N{MINUS SIGN}]?)\$?(\d[\d,]*(?:\.\d+)?|\.\d+)")
_CALCULATION = re.compile(r"<<[^<>\n]*>>")


def final_number(text: str) -> Decimal | None:
    """Return the first number after the last `####`; without that mark the last number of all; None without any.

    A dollar sign before it and commas inside it are dropped.
    """
    _, mark, after = text.rpartition(FINAL_MARK)
    found = _NUMBER.findall(after if mark else text)
    if not found:
        return None
    sign, digits = found[0 if mark else -1]
    number = Decimal(digits.replace(",", ""))
    return number.copy_negate() if sign else number  # unary minus would round to the context's 28 digits


class _QuestionTask(RecordTask):
    """What the three share: templates may name {question}."""

    completion_default = "Question: {question}\n\nAnswer:"

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._chat = self.template("template", self.chat_default, ("question",))
        self._completion = self.template("completion_template", self.completion_default, ("question",))

    def answered(
        self,
        example_id: str,
        question: str,
        reference: str,
        *,
        choices: tuple[str, ...] = (),
        grading: Mapping[str, str | list[str]],
    ) -> Example:
        """Return the example of a question and its reference; `grading` is what graders need beside the question."""
        asked = {"question": question}
        return self.make(
            example_id,
            {
                "chat": self.chat(self._chat.render(asked), choices=choices, reference=reference),
                "completion": self.completion(
                    self._completion.render(asked),
                    choices=tuple(f" {choice}" for choice in choices),
                    reference=f" {reference}",
                    stop=("\n\nQuestion:",),
                ),
            },
            reference=reference,
            grading={"question": question, **grading},
        )


class Coding(_QuestionTask):
    """Instructions answered by programs. The question is the instruction, and its input where there is one."""

    default_graders = ("rouge_l", "bits_per_byte")
    chat_default = "{question}"
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("id",),
        "instruction": ("instruction",),
        "input": ("input",),
        "reference": ("output",),
    }

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one instruction into its example."""
        given = as_text(self.optional(record, "input")).strip()
        instruction = self.text(record, "instruction")
        question = f"{instruction}\n\n{given}" if given else instruction
        return self.answered(example_id, question, self.text(record, "reference"), grading={})


class Math(_QuestionTask):
    """Word problems with worked solutions. The calculator's notes (<<48/2=24>>) are left out of the reference."""

    default_graders = ("final_number", "bits_per_byte")
    chat_default = (
        "{question}\n\nWork it out step by step. End with a line that holds #### and the final number, and no more."
    )
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("id",),
        "question": ("question",),
        "reference": ("answer",),
    }

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one problem into its example."""
        solution = self.text(record, "reference")
        number = final_number(solution) if FINAL_MARK in solution else None
        if number is None:
            raise DataError(
                f"record {example_id}: its answer has no number after {FINAL_MARK}",
                where=self.where("data"),
                remedy="fix or remove that record",
            )
        reference = _CALCULATION.sub("", solution)
        return self.answered(example_id, self.text(record, "question"), reference, grading={"number": str(number)})


class Reasoning(_QuestionTask):
    """Questions whose yes or no takes several steps. The reference is the answer, then the reasons."""

    default_graders = ("decision", "decision_loglik", "rouge_l", "bits_per_byte")
    chat_default = "{question}\n\nBegin your answer with one word: yes or no. Then give the reasons."
    completion_default = "Question: {question} (yes or no)\n\nAnswer:"
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("qid", "id"),
        "question": ("question", "input"),
        "answer": ("answer", "target_scores"),
        "reasons": ("target", "facts", "decomposition"),
    }

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one question into its example."""
        label = self._label_of(example_id, self.value(record, "answer"))
        reasons = self.value(record, "reasons")
        whole = " ".join(as_text(part).strip() for part in (reasons if isinstance(reasons, list) else [reasons]))
        reasons_alone = re.sub(rf"^{label}\b[\s.,:;]*", "", whole, flags=re.IGNORECASE)
        return self.answered(
            example_id,
            self.text(record, "question"),
            f"{label}. {reasons_alone}".rstrip(),
            choices=CHOICES,
            grading={"label": label, "choices": list(CHOICES)},
        )

    def _label_of(self, example_id: str, answer: Any) -> str:
        """Return yes or no for a truth value, a word, or scores by word."""
        if isinstance(answer, Mapping) and answer:
            answer = max(answer, key=lambda word: float(answer[word]))
        word = {True: "yes", False: "no"}.get(answer) if isinstance(answer, bool) else as_text(answer).strip().lower()
        if word not in CHOICES:
            raise DataError(
                f"record {example_id}: the answer is {word!r}, not yes or no",
                where=self.where("data"),
                remedy="fix or remove that record",
            )
        return word
