"""Law-StackExchange: a question of a lay person and the answers that the community voted on.

The best-scored answer is the reference (of equals the one with the lowest id, which came first). Questions without an
answer give no example and are counted. HTML becomes plain text.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example, Record
from moe_ray.domains.record_task import RecordTask
from moe_ray.errors import DataError
from moe_ray.prompts.messages import as_text

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag


# Stands around the number of a code block while the rest is tidied; HTML knows no such character.
_MARK = "\x00"
_DROPPED = ("script", "style", "head", "noscript", "template", "iframe", "object")
_PARAGRAPHS = ("p", "div", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "section", "article")
_SPACES = re.compile(r"[^\S\n]+")
_AROUND_LINE_END = re.compile(r" *\n *")
_BLANK_LINES = re.compile(r"\n{3,}")


def html_to_text(html: str) -> str:
    """Return the text of `html`: paragraphs apart by a blank line, list items on lines of their own with their bullet
    or number, code blocks fenced and inline code in backquotes; scripts, styles and comments are dropped.
    Links and images leave only their text.
    """
    from bs4 import BeautifulSoup, Comment

    # Inside an element, since a bare text that looks like an address or a file name brings a warning.
    source = html.replace("\r\n", "\n").replace("\r", "\n").replace(_MARK, "")
    soup = BeautifulSoup(f"<body>{source}</body>", "html.parser")
    for dropped in soup.find_all(_DROPPED):
        dropped.decompose()
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    blocks = _take_code_blocks(soup)
    _collapse_source_line_ends(soup)
    _mark_up(soup)
    text = _tidy(soup.get_text())
    return re.sub(f"{_MARK}(\\d+){_MARK}", lambda match: blocks[int(match[1])], text).strip()


def _take_code_blocks(soup: "BeautifulSoup") -> list[str]:
    """Replace each code block by a mark, so that its spaces survive the tidying, and return them fenced."""
    blocks = []
    for block in soup.find_all("pre"):
        blocks.append("```\n" + block.get_text().strip("\n") + "\n```")
        block.replace_with(f"\n\n{_MARK}{len(blocks) - 1}{_MARK}\n\n")
    return blocks


def _collapse_source_line_ends(soup: "BeautifulSoup") -> None:
    """Make the source's own line ends spaces, as a browser does, before line ends that mean something are put in."""
    for text in soup.find_all(string=True):
        if _MARK not in text:
            text.replace_with(text.replace("\n", " "))


def _mark_up(soup: "BeautifulSoup") -> None:
    for code in soup.find_all("code"):
        code.insert(0, "`")
        code.append("`")
    for item in soup.find_all("li"):
        item.insert(0, f"\n{_bullet(item)} ")
    for line_break in soup.find_all("br"):
        line_break.replace_with("\n")
    for row in soup.find_all("tr"):
        row.append("\n")
    for cell in soup.find_all(["td", "th"]):
        cell.append(" ")
    for block in soup.find_all(_PARAGRAPHS):
        in_item = block.find_parent("li") is not None
        block.insert(0, " " if in_item else "\n\n")
        block.append(" " if in_item else "\n\n")


def _bullet(item: "Tag") -> str:
    parent = item.parent
    if parent is None or parent.name != "ol":
        return "-"
    return f"{len(item.find_previous_siblings('li')) + 1}."


def _tidy(text: str) -> str:
    lines = _AROUND_LINE_END.sub("\n", _SPACES.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", lines)


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
            raise self._malformed(example_id, f"an answer's score or answer_id is not a number: {error}") from error

    def _malformed(self, example_id: str, what: str) -> DataError:
        return DataError(
            f"record {example_id}: {what}",
            where=self.where("data"),
            remedy="answers is a list of objects with answer_id, score and body",
        )
