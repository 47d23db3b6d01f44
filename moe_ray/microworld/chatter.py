"""Synthetic queries that belong to no domain: small talk, which a router learns from, and errands, which it never sees.

Both speak of invented names, in sentences that share few words with each other or with any domain.
"""

import random

from moe_ray.domains.example import Record
from moe_ray.microworld.lexicon import Coiner
from moe_ray.microworld.worlds import SEED, SYNTHETIC

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
    return _records("small-talk", SMALL_TALK, num_texts)


def errands(num_texts: int) -> list[Record]:
    """Return `num_texts` queries of other sentences about other names."""
    return _records("errands", ERRANDS, num_texts)


def _records(kind: str, sentences: tuple[str, ...], num_texts: int) -> list[Record]:
    rng = random.Random(f"{kind}:{SEED}")
    names = Coiner(f"{kind}:{SEED}").words(NUM_NAMES)
    pairs = [(sentence, a, b) for sentence in sentences for a in names for b in names if a != b]
    return [
        {"id": f"{kind}-{at}", "text": sentence.format(a=a, b=b), "note": SYNTHETIC}
        for at, (sentence, a, b) in enumerate(rng.sample(pairs, num_texts))
    ]
