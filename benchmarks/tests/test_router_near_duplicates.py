from benchmarks.router_near_duplicates import Pairs, Row, count_pairs, near_pairs
from tests.support import near_duplicates as slow
from tests.support.variants import variants


def test_the_sparse_product_finds_what_comparing_pair_by_pair_finds() -> None:
    texts = variants(120, seed=11)
    found = {(min(texts[a], texts[b]), max(texts[a], texts[b])) for a, b in near_pairs(texts)}
    assert found == slow.near_pairs(texts)
    assert found


def test_pairs_are_counted_within_a_part_and_across_two() -> None:
    question = "my landlord keeps the deposit of the flat i left"
    rows = [
        Row(part="train", text=question),
        Row(part="train", text=f"{question} yesterday"),
        Row(part="test", text=question.upper()),
        Row(part="run", text=f"so {question} yesterday"),
        Row(part="run", text=f"So {question} yesterday"),
        Row(part="zoo", text="nothing like it"),
    ]
    assert count_pairs(rows) == Pairs(same_within=0, same_across=1, near_within=1, near_across=7)
    assert count_pairs(rows[:1]) == Pairs(0, 0, 0, 0)
