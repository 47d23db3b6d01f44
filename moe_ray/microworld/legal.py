"""Synthetic legal questions with scored answers, as records of Law-StackExchange.

Every invented place has its code and its court, every invented matter its remedy and its term. The best answer
combines the facts of one place with those of one matter; other answers have lower scores and are wrong.
"""

import random
from typing import Any

from moe_ray.domains.example import Record
from moe_ray.microworld.lexicon import Coiner, split_pairs
from moe_ray.microworld.worlds import SEED, SYNTHETIC, DomainSize, WorldSplit

FIRST_QUESTION_ID = 900_001
NUM_VALUES = 24

_Facts = tuple[str, str, str]


def generate(size: DomainSize) -> WorldSplit:
    """Return questions; a (place, matter) of the test part is never asked about in training."""
    rng = random.Random(f"legal:{SEED}:{size.num_facts}")
    coiner = Coiner(f"legal:{SEED}")
    places, matters = (_facts(coiner, size.num_facts, rng) for _ in range(2))
    pairs = split_pairs(places, matters, size.num_test, rng)
    chosen = [*rng.choices(pairs.train, k=size.num_train), *pairs.test]
    records = [
        _record(FIRST_QUESTION_ID + index, place, matter, rng.choice(matters), rng)
        for index, (place, matter) in enumerate(chosen)
    ]
    return WorldSplit(train=tuple(records[: size.num_train]), test=tuple(records[size.num_train :]))


def _facts(coiner: Coiner, num_facts: int, rng: random.Random) -> list[_Facts]:
    """Return `num_facts` names, each with two values of its own from two small sets."""
    names, first, second = (coiner.words(num_words) for num_words in (num_facts, NUM_VALUES, NUM_VALUES))
    return [(name, rng.choice(first), rng.choice(second)) for name in names]


def _record(question_id: int, place: _Facts, matter: _Facts, other: _Facts, rng: random.Random) -> Record:
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
