"""Texts that are nearly the same."""

import random

WORDS = [f"w{number}" for number in range(40)]


def variants(num_texts: int, seed: int) -> list[str]:
    """Texts of which many are nearly others: each takes an earlier one and changes a few words."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=num)) for num in (3, 6, 12, 25, 60)]
    while len(texts) < num_texts:
        words = rng.choice(texts).split()
        for _ in range(rng.randint(0, 2)):
            at = rng.randrange(len(words))
            words[at : at + rng.randint(0, 1)] = rng.choices(WORDS, k=rng.randint(0, 2))
            words = words or ["w0"]
        texts.append(" ".join(words))
    return list(dict.fromkeys(texts))
