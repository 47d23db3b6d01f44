"""Synthetic abstracts with a yes/no/maybe question, as records of PubMedQA's `ori_pqal.json`.

A finding says with one invented verb whether a marker rose or fell, and with one invented word whether that is
certain. The decision combines both. The meanings of the words are nowhere in the text: they have to be learned.
"""

import random

from moe_ray.domains.example import Record
from moe_ray.microworld.lexicon import Coiner, split_pairs
from moe_ray.microworld.worlds import SEED, SYNTHETIC, DomainSize, WorldSplit

FIRST_PMID = 90_000_001
NUM_NAMES = 12

_Meaning = tuple[str, bool]


def generate(size: DomainSize) -> WorldSplit:
    """Return records with an extra `pmid` key, the key that the published file keeps outside of the record."""
    rng = random.Random(f"biomedical:{SEED}:{size.num_facts}")
    coiner = Coiner(f"biomedical:{SEED}")
    drugs, markers = coiner.words(NUM_NAMES), coiner.words(NUM_NAMES)
    verbs = [(word, index % 2 == 0) for index, word in enumerate(coiner.words(size.num_facts))]
    certainties = [(word, index % 3 != 0) for index, word in enumerate(coiner.words(size.num_facts))]
    pairs = split_pairs(verbs, certainties, size.num_test, rng)
    chosen = [*rng.choices(pairs.train, k=size.num_train), *pairs.test]
    records = [
        _record(FIRST_PMID + index, verb, certainty, rng.choice(drugs), rng.choice(markers))
        for index, (verb, certainty) in enumerate(chosen)
    ]
    return WorldSplit(train=tuple(records[: size.num_train]), test=tuple(records[size.num_train :]))


def decide(*, rose: bool, certain: bool) -> str:
    """Return the answer to "did it rise?": maybe unless the finding is certain."""
    if not certain:
        return "maybe"
    return "yes" if rose else "no"


def _record(pmid: int, verb: _Meaning, certainty: _Meaning, drug: str, marker: str) -> Record:
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
