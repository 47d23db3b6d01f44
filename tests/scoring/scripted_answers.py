"""Answers as models write them, and what must be read in each: reasoning, letters, boxes, JSON, numbers, words."""

from dataclasses import dataclass
from typing import Any

WORDS = ("yes", "no", "maybe")
LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`read` is the choice, or the number, that the answer `text` gives; None where it gives none.

    `choices` is empty for numbers. `settings` are the grader's.
    """

    text: str
    read: str | None
    choices: tuple[str, ...] = LETTERS
    settings: tuple[tuple[str, Any], ...] = ()


def _cases(choices: tuple[str, ...], *answers: tuple[str, str | None], **settings: Any) -> list[Case]:
    return [Case(text=text, read=read, choices=choices, settings=tuple(settings.items())) for text, read in answers]


REASONED = [
    *_cases(
        WORDS,
        ("<think> The abstract reports no difference </think> Yes.", "yes"),
        ("<think>\nno, no, maybe\n</think>\n\n**No**, it does not.", "no"),
        ("[THINK]yes?[/THINK]Maybe.", "maybe"),
        ("<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>Yes", "yes"),
        ("<seed:think>yes</seed:think>No", "no"),
        ("◁think▷yes◁/think▷No", "no"),
        ("so it is not, no </think> Yes", "yes"),
        ("<reasoning>no</reasoning><answer>yes</answer>", "yes"),
        ("<think> The abstract reports no", None),
        ("<thinking>yes</thinking>", None),
    ),
    *_cases(
        LETTERS,
        ("<think>Is it A? Or B? The answer is A.</think>The answer is C.", "C"),
        ("<think>The answer is A.</think>\n\nD", "D"),
        ("<think>The answer is A.", None),
    ),
    *_cases((), ("<think>12 + 3 = 15</think>The answer is 16.", "16"), ("<think>12 + 3 = 15", None)),
]
LETTERED = _cases(
    LETTERS,
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("(B)", "B"),
    ("**B**", "B"),
    ("B) Paris", "B"),
    ("B. Paris, because it is the capital.", "B"),
    ("B - Paris", "B"),
    ("B\n\nParis is a city in France.", "B"),
    ("Answer: B", "B"),
    ("**Answer:** B", "B"),
    ("**Answer**: (B)", "B"),
    ("### Answer\nB", "B"),
    ("<answer>B</answer>", "B"),
    ("This is a question of geography. The answer is B.", "B"),
    ("The patient has a fever, so B", "B"),
    ("A patient with a fever and a cough: the correct answer is option D.", "D"),
    ("The correct option is C, since a is a letter.", "C"),
    ("The answer is A because it fits.", "A"),
    ("A", "A"),
    ("A is correct.", "A"),
    ("The answer is A. Wait. The answer is C.", "C"),
    ("A) London is wrong.\nB) Paris is right.\nC) Rome is wrong.\nSo the answer is B.", "B"),
    ("I choose (C) because (A) is wrong.", "C"),
    ("Option B is correct because option A is wrong.", "B"),
    ("I would say C.", "C"),
    ("Therefore, D.", "D"),
    ("Not B, but C.", "C"),
    ("A, B and C are wrong, so D", "D"),
    ("The final answer is $\\boxed{C}$.", "C"),
    ("\\boxed{\\text{(D)}}", "D"),
    ('{"reason": "A is a trap", "answer": "C"}', "C"),
    ("The answer is \u201cD\u201d.", "D"),
    ("A patient presents with a fever.", None),
    ("I think it is a cold.", None),
    ("The answer is a matter of taste.", None),
    ("The answer is A or B.", None),
    ("The answer isn't B.", None),
    ("Hepatitis B is likely.", None),
    ("A) London\nB) Paris", None),
    ("", None),
)
MIXED = _cases(
    ("A", "B", "none of them"),
    ("None of them fits a patient.", "none of them"),
    ("The answer is none of them.", "none of them"),
    ("It is a B.", "B"),
)
NAMED = [
    *_cases(WORDS, ("Not yes. \\boxed{no}", "no"), ("yes", None), read="boxed"),
    *_cases(WORDS, ("Maybe at first.\nFinally: no.\n\n", "no"), ("", None), read="last_line"),
    *_cases(
        WORDS,
        ('no ```json\n{"verdict": "Yes", "answer": "no"}\n```', "yes"),
        ('{"verdict": "maybe", "why": "broken "quote"', "maybe"),
        ('{"answer": "no"}', None),
        read="json",
        key="verdict",
    ),
    *_cases(WORDS, ("Yes? No! VERDICT=maybe; yes", "maybe"), ("yes", None), pattern=r"VERDICT=(\w+)"),
    *_cases(WORDS, ("No doubt: the answer is yes.", "yes"), ("no", None), read="answer_is"),
    *_cases(WORDS, ("No doubt: the answer is yes.", "yes"), ("no", "no"), read=["boxed", "answer_is", "first"]),
    *_cases(LETTERS, ("B or C? [[C]]", "C"), pattern=r"\[\[([A-D])\]\]"),
    *_cases((), ("12 or {\"answer\": 14.0} or 15", "14"), read="json"),
    *_cases((), ("it costs 3 (of 7)", "3"), ("seven", None), pattern=r"costs (\d+)"),
]  # fmt: skip
WORDED = _cases(
    WORDS,
    ("Yes, it does.", "yes"),
    ("**MAYBE**: yes or no.", "maybe"),
    ("The answer is no. Yes would be wrong.", "no"),
    ("I cannot say.", None),
)
NUMBERS = _cases(
    (),
    ("48 and 24 are\n#### 72", "72"),
    ("#### $1,234.50", "1234.5"),
    ("It costs \\$1,234.50.", "1234.5"),
    ("So $\\boxed{1{,}234}$ km", "1234"),
    ("\\boxed{\\frac{3}{4}}", "0.75"),
    ("The answer is 72 km. There are 3 more.", "72"),
    ("Answer: 48 + 24 = 72", "72"),
    ("It falls to \u22125 degrees", "-5"),
    ("half of it: 1/2", "0.5"),
    ("1\u202f234\u202f567 people", "1234567"),
    ("### Step 3\nThe total is **72%**.", "72"),
    ("seventy-two", None),
)
CASES = (*REASONED, *LETTERED, *MIXED, *NAMED, *WORDED, *NUMBERS)
