"""Law-StackExchange: a question of a lay person and the answers that the community voted on.

The best-scored answer is the reference (of equals the one with the lowest id, which came first). Questions without an
answer give no example and are counted. HTML becomes plain text.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.base import Record
from moe_ray.domains.example import Example
from moe_ray.domains.html import html_to_text
from moe_ray.domains.record_task import RecordTask
from moe_ray.domains.templates import as_text
from moe_ray.errors import DataError

CHAT = """\
Answer this legal question. Say what the law is and how it applies here.

{title}

{body}"""

COMPLETION = """\
Question: {title}

{body}

Answer:"""


class LawStackExchange(RecordTask):
    """Questions and answers in the format of the Stack Exchange API. Templates may name {title} and {body}."""

    default_graders = ("rouge_l", "completeness", "relevance", "bits_per_byte")
    chat_default = CHAT
    completion_default = COMPLETION
    roles: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "id": ("question_id", "id"),
        "title": ("question_title", "title"),
        "body": ("question_body", "body"),
        "answers": ("answers",),
    }

    def __init__(self, name: str, config: DomainConfig) -> None:
        super().__init__(name, config)
        self._chat = self.template("template", self.chat_default, ("title", "body"))
        self._completion = self.template("completion_template", self.completion_default, ("title", "body"))

    def skip_reason(self, record: Record) -> str | None:
        """Say "no answer" of a question whose list of answers is empty."""
        return None if self.optional(record, "answers") else "no answer"

    def example(self, example_id: str, record: Record) -> Example:
        """Turn one question into its example."""
        title, body = (html_to_text(self.text(record, role)) for role in ("title", "body"))
        reference = html_to_text(self._best_answer(example_id, record))
        asked = {"title": title, "body": body}
        return self.make(
            example_id,
            {
                "chat": self.chat(self._chat.render(asked), reference=reference),
                "completion": self.completion(
                    self._completion.render(asked), reference=f" {reference}", stop=("\n\nQuestion:",)
                ),
            },
            reference=reference,
            grading={"question": f"{title}\n\n{body}"},
        )

    def _best_answer(self, example_id: str, record: Record) -> str:
        answers = self.value(record, "answers")
        if not isinstance(answers, list):
            raise self._malformed(example_id, f"answers is {type(answers).__name__}, not a list")
        return as_text(min(answers, key=lambda answer: self._rank(example_id, answer))["body"])

    def _rank(self, example_id: str, answer: Any) -> tuple[float, int]:
        missing = [key for key in ("answer_id", "score", "body") if not isinstance(answer, dict) or key not in answer]
        if missing:
            raise self._malformed(example_id, f"an answer has no {missing[0]}")
        try:
            return -float(answer["score"]), int(answer["answer_id"])
        except (TypeError, ValueError) as error:
            raise self._malformed(example_id, f"an answer's score or answer_id is no number: {error}") from error

    def _malformed(self, example_id: str, what: str) -> DataError:
        return DataError(
            f"record {example_id}: {what}",
            where=self.where("data"),
            remedy="answers is a list of objects with answer_id, score and body",
        )
