import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from moe_ray.texts.corpus import Splits, downsampled, split_texts
from moe_ray.texts.labelled import LabelledText


def texts(label: str, num: int) -> list[LabelledText]:
    return [LabelledText(id=f"{label}/{number}", text=f"{label} {number}", label=label) for number in range(num)]


def split(by_label: dict[str, Sequence[LabelledText]]) -> Splits:
    return split_texts(by_label.values(), test_fraction=0.2, validation_fraction=0.1)


def test_each_text_is_in_one_part_and_the_shares_are_met() -> None:
    num = 20_000
    parts = split({"legal": texts("legal", num)})
    assert sorted(text.id for part in parts for text in part) == sorted(text.id for text in texts("legal", num))
    for part, share in zip(parts, (0.72, 0.08, 0.2), strict=True):
        assert abs(len(part) / num - share) < 4 * math.sqrt(share * (1 - share) / num)


def test_a_text_stays_where_it_is_when_others_come_and_in_whatever_order() -> None:
    some = texts("legal", 300)
    more = random.Random(2).sample([*some, *texts("late", 500)], 800)
    before, after = split({"legal": some}), split({"legal": more, "code": texts("code", 100)})
    for one, other in zip(before, after, strict=True):
        assert {text.id for text in one} == {text.id for text in other} & {text.id for text in some}
        assert [text for text in other if text in some] == list(one), "and the order is the same"


@pytest.mark.parametrize("num", [3, 4, 10])
def test_every_part_has_a_text_of_every_label_however_few_there_are(num: int) -> None:
    for number in range(30):
        parts = split({f"label{number}": texts(f"label{number}", num)})
        assert min(map(len, parts)) >= 1
        assert sum(map(len, parts)) == num


def test_the_three_draws_are_independent_of_each_other_and_of_limits() -> None:
    """The first thousand by the hash that limits go by are split like all others."""
    from moe_ray.domains.loading import hash_rank

    drawn = sorted(texts("legal", 10_000), key=lambda text: hash_rank(text.id))[:1000]
    parts = split({"legal": drawn})
    assert 150 < len(parts.test) < 250
    assert 50 < len(parts.validation) < 110


def test_downsampling_leaves_as_many_of_each_label_as_the_rarest_has() -> None:
    given = [*texts("legal", 50), *texts("code", 7), *texts("other", 7)]
    kept = downsampled(random.Random(0).sample(given, len(given)))
    assert Counter(text.label for text in kept) == {"legal": 7, "code": 7, "other": 7}
    assert downsampled([]) == ()


def test_downsampling_keeps_the_first_of_each_label_in_their_order() -> None:
    given = [*texts("legal", 5), *texts("code", 2)]
    assert downsampled(given) == (*given[:2], *given[5:])
