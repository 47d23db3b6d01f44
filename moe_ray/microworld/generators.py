"""Generators of synthetic records in the formats of PubMedQA, Law-StackExchange and MBPP, and of out-of-domain queries.

biomedical: abstracts with a yes/no/maybe question. A finding says with an invented verb whether a marker rose or fell,
and with an invented word whether that is certain. The decision combines both.
legal: questions with scored answers. Every invented place has its code and its court, every invented matter its remedy
and its term. The best answer combines the facts of a place with those of a matter.
code: programming tasks with tests. Every task chains two invented operations on a number.
out-of-domain: small talk, which a router learns from, and errands, which are used for tests only.

The meanings of the words are never defined in the text, so that models have to learn them. Test records combine facts
that were never combined in training.
"""

import random
from collections.abc import Callable
from typing import Any, cast

from moe_ray.domains.example import Record
from moe_ray.microworld.worlds import SEED, SYNTHETIC, Coiner, DomainSize, WorldSplit, split_pairs

FIRST_PMID = 90_000_001
NUM_DRUGS = 12
_Meaning = tuple[str, bool]


def generate_biomedical(size: DomainSize) -> WorldSplit:
    """Return records with an extra `pmid` key, the key that the published file keeps outside of the record."""
    rng = random.Random(f"biomedical:{SEED}:{size.num_facts}")
    coiner = Coiner(f"biomedical:{SEED}")
    drugs, markers = coiner.words(NUM_DRUGS), coiner.words(NUM_DRUGS)
    verbs = [(word, index % 2 == 0) for index, word in enumerate(coiner.words(size.num_facts))]
    certainties = [(word, index % 3 != 0) for index, word in enumerate(coiner.words(size.num_facts))]
    pairs = split_pairs(verbs, certainties, size.num_test, rng)
    chosen = [*rng.choices(pairs.train, k=size.num_train), *pairs.test]
    records = [
        _abstract(FIRST_PMID + index, verb, certainty, rng.choice(drugs), rng.choice(markers))
        for index, (verb, certainty) in enumerate(chosen)
    ]
    return WorldSplit(train=tuple(records[: size.num_train]), test=tuple(records[size.num_train :]))


def decide(*, rose: bool, certain: bool) -> str:
    """Return the answer to "did it rise?": maybe unless the finding is certain."""
    if not certain:
        return "maybe"
    return "yes" if rose else "no"


def _abstract(pmid: int, verb: _Meaning, certainty: _Meaning, drug: str, marker: str) -> Record:
    moved = "raised" if verb[1] else "lowered"
    known = "certain" if certainty[1] else "uncertain"
    decision = decide(rose=verb[1], certain=certainty[1])
    return {
        "pmid": str(pmid),
        "QUESTION": f"does {drug} raise {marker}?",
        "CONTEXTS": [f"patients took {drug}.", f"their {marker} {verb[0]}. the difference was {certainty[0]}."],
        "LABELS": ["METHODS", "RESULTS"],
        "MESHES": [SYNTHETIC],
        "YEAR": "2000",
        "reasoning_required_pred": decision,
        "reasoning_free_pred": decision,
        "final_decision": decision,
        "LONG_ANSWER": f"{decision}. it is {known} that {drug} {moved} {marker}.",
    }


FIRST_QUESTION_ID = 900_001
NUM_VALUES = 24
_Facts = tuple[str, str, str]


def generate_legal(size: DomainSize) -> WorldSplit:
    """Return questions; a (place, matter) of the test part is never asked about in training."""
    rng = random.Random(f"legal:{SEED}:{size.num_facts}")
    coiner = Coiner(f"legal:{SEED}")
    places, matters = (_facts(coiner, size.num_facts, rng) for _ in range(2))
    pairs = split_pairs(places, matters, size.num_test, rng)
    chosen = [*rng.choices(pairs.train, k=size.num_train), *pairs.test]
    records = [
        _question(FIRST_QUESTION_ID + index, place, matter, rng.choice(matters), rng)
        for index, (place, matter) in enumerate(chosen)
    ]
    return WorldSplit(train=tuple(records[: size.num_train]), test=tuple(records[size.num_train :]))


def _facts(coiner: Coiner, num_facts: int, rng: random.Random) -> list[_Facts]:
    """Return `num_facts` names, each with two values of its own from two small sets."""
    names, first, second = (coiner.words(num_words) for num_words in (num_facts, NUM_VALUES, NUM_VALUES))
    return [(name, rng.choice(first), rng.choice(second)) for name in names]


def _question(question_id: int, place: _Facts, matter: _Facts, other: _Facts, rng: random.Random) -> Record:
    best = rng.randint(5, 30)
    answers = [
        _answer(question_id * 10, best, _ruling(place, matter)),
        _answer(question_id * 10 + 1, rng.randint(-2, best - 1), _ruling(place, (other[0], other[2], other[1]))),
        _answer(question_id * 10 + 2, rng.randint(-2, best - 1), f"<p>ask a lawyer in {place[0]}.</p>"),
    ]
    rng.shuffle(answers)
    return {
        "question_id": question_id,
        "tags": ["synthetic", place[0], matter[0]],
        "score": rng.randint(0, 20),
        "license": SYNTHETIC,
        "question_title": f"{matter[0]} in {place[0]}",
        "question_body": f"<p>i live in <em>{place[0]}</em>. what is the rule on {matter[0]}?</p>\n",
        "link": f"https://synthetic.invalid/questions/{question_id}",
        "answers": answers,
    }


def _ruling(place: _Facts, matter: _Facts) -> str:
    return f"<p>{place[2]} under <b>{place[1]}</b> grants {matter[1]} for {matter[2]}.</p>"


def _answer(answer_id: int, score: int, body: str) -> dict[str, Any]:
    return {"answer_id": answer_id, "score": score, "body": body + "\n"}


FIRST_TEST_TASK_ID = 11
FIRST_TRAIN_TASK_ID = 601
NUM_ASSERTS = 3
NUM_DRAWN_ARGUMENTS = 12
_TEMPLATES = ("x + {c}", "x - {c}", "{c} - x", "x * {c}", "x // {c}", "x % {c}", "abs(x - {c})", "x * x - {c}")
_CONSTANTS = range(2, 10)
_Operation = tuple[str, str]


def generate_code(size: DomainSize) -> WorldSplit:
    """Return tasks; test ids begin where MBPP's test part does, training ids where its training part does."""
    rng = random.Random(f"code:{SEED}:{size.num_facts}")
    coiner = Coiner(f"code:{SEED}")
    expressions = [template.format(c=constant) for template in _TEMPLATES for constant in _CONSTANTS]
    operations = [(word, rng.choice(expressions)) for word in coiner.words(size.num_facts)]
    pairs = split_pairs(operations, operations, size.num_test, rng)
    train = rng.choices(pairs.train, k=size.num_train)
    return WorldSplit(
        train=tuple(_task(FIRST_TRAIN_TASK_ID + index, pair, rng) for index, pair in enumerate(train)),
        test=tuple(_task(FIRST_TEST_TASK_ID + index, pair, rng) for index, pair in enumerate(pairs.test)),
    )


def _task(task_id: int, pair: tuple[_Operation, _Operation], rng: random.Random) -> Record:
    first, then = pair
    code = f"def solve(x):\n    x = {first[1]}\n    return {then[1]}"
    return {
        "text": f"write a function solve to {first[0]} and then {then[0]} a number.",
        "code": code,
        "task_id": task_id,
        "test_setup_code": f"# {SYNTHETIC}",
        "test_list": _asserts(code, rng),
        "challenge_test_list": [],
    }


def _asserts(code: str, rng: random.Random) -> list[str]:
    """Return asserts that `code`, one of this module's own programs, passes; their results differ where they can."""
    scope: dict[str, Any] = {}
    exec(code, scope)
    solve = cast("Callable[[int], int]", scope["solve"])
    arguments = [rng.randint(-20, 40) for _ in range(NUM_DRAWN_ARGUMENTS)]
    by_result = {solve(argument): argument for argument in arguments}
    chosen = [*by_result.values(), *arguments][:NUM_ASSERTS]
    return [f"assert solve({argument}) == {solve(argument)}" for argument in chosen]


SMALL_TALK = (
    "good morning {a}, how was your trip with {b}?",
    "tell me a story about {a} and the old bridge of {b}.",
    "which song should {a} sing for {b} tonight?",
    "my cat {a} sleeps all day. is {b} like that too?",
    "who was faster yesterday, {a} or {b}?",
    "do you think that {a} would enjoy a picnic near {b}?",
)
ERRANDS = (
    "book a table for {a} at {b} on friday.",
    "remind {a} to water the plants at seven, then call {b}.",
    "how long does the train from {a} to {b} take?",
    "play the newest album of {a}, and turn the volume to {b}.",
)
NUM_NAMES = 40


def small_talk(num_texts: int) -> list[Record]:
    """Return `num_texts` queries, as records with an id and a text."""
    return _queries("small-talk", SMALL_TALK, num_texts)


def errands(num_texts: int) -> list[Record]:
    """Return `num_texts` queries of other sentences about other names."""
    return _queries("errands", ERRANDS, num_texts)


def _queries(kind: str, sentences: tuple[str, ...], num_texts: int) -> list[Record]:
    rng = random.Random(f"{kind}:{SEED}")
    names = Coiner(f"{kind}:{SEED}").words(NUM_NAMES)
    pairs = [(sentence, a, b) for sentence in sentences for a in names for b in names if a != b]
    return [
        {"id": f"{kind}-{at}", "text": sentence.format(a=a, b=b), "note": SYNTHETIC}
        for at, (sentence, a, b) in enumerate(rng.sample(pairs, num_texts))
    ]
