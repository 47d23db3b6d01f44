"""Long texts that a model may answer with, made to hold up whatever reads them; also a command that reads them all.

    python -m tests.scoring.hostile_texts EVERY

reads every EVERYth text with each reader of the package and ends; a test runs it under a limit of CPU time.
"""

import sys
from collections.abc import Callable, Mapping

from moe_ray.domains.instruction_sets import final_number
from moe_ray.domains.programs import complete
from moe_ray.scoring.code import extract_program, normalised
from moe_ray.scoring.decisions import after_decision, parse_decision
from moe_ray.scoring.references import content_words, f_measure, rouge_tokens

NUM_CHARS = 300_000
CHOICES = ("yes", "no", "not at all", "C++", "(a)")

READERS: Mapping[str, Callable[[str], object]] = {
    "decision": lambda text: parse_decision(text, CHOICES),
    "explanation": lambda text: after_decision(text, CHOICES),
    "content words": content_words,
    "rouge": lambda text: f_measure(rouge_tokens("the cat sat on the mat " * 200), rouge_tokens(text)),
    "final number": final_number,
    "program": lambda text: normalised(extract_program(text)),
    "continuation": lambda text: complete("def f(x):\n", text, "f"),
}

UNITS = (
    " ", "\t", "\n", " \n", "a", "A ", "_", "-", "(", "[", "{", "0", "1,", ".1", "-1", "$", "'", '"', '"""',
    "#", "####", "```", "```\n", "```\n```py\n", "    ```\n", "x.", "x+", "x=", "not ", "lambda:",
    "x if y else ", "await ", "*", "\\\n", 'f"{', "if x:\n ", "yes", "ye", "not at al", "the ", "answer is",
    "answer ", "(a", "[BEGIN]", "[DONE]", "é", "İ", "ß", "\ud800", "\u0660", "\N{MINUS SIGN}", "\r", "\x00",
    "\ufeff", "\u202e", "a'",
)  # fmt: skip
FRAMES = ("{}", "```{}", "```python\n{}", "```python{}\n", "the{}", "answer{}x", "answer is{}", "x{}x", "def f(x):\n{}")


def hostile_texts(num_chars: int = NUM_CHARS) -> dict[str, str]:
    """Return the texts, each of one unit repeated within a frame, by what they are made of."""
    return {
        f"{frame!r} of {unit!r}": frame.replace("{}", unit * (num_chars // len(unit)))
        for frame in FRAMES
        for unit in UNITS
    }


def main() -> None:
    """Read every EVERYth text with every reader."""
    for text in list(hostile_texts().values())[:: int(sys.argv[1])]:
        for read in READERS.values():
            read(text)


if __name__ == "__main__":
    main()
