import hashlib
import random

import pytest

from moe_ray.domains.loading import draw
from moe_ray.errors import DataError

IDS = [f"id-{number}" for number in range(200)]


def drawn_ids(ids: list[str], limit: int | None, listed: frozenset[str] | None = None) -> list[str]:
    drawn = draw([(one, None) for one in ids], limit=limit, listed=listed, where="here")
    return [one for one, _ in drawn.pairs]


def test_the_order_is_that_of_the_sha256_of_the_ids() -> None:
    assert drawn_ids(IDS, None) == sorted(IDS, key=lambda one: hashlib.sha256(one.encode()).digest())


def test_the_position_of_a_record_changes_nothing() -> None:
    shuffled = random.Random(3).sample(IDS, len(IDS))
    assert drawn_ids(shuffled, 25) == drawn_ids(IDS, 25)


@pytest.mark.parametrize(("small", "large"), [(1, 2), (10, 20), (20, 199), (199, 500)])
def test_limits_are_nested(small: int, large: int) -> None:
    assert drawn_ids(IDS, small) == drawn_ids(IDS, large)[:small]


def test_an_id_keeps_its_place_when_others_come_and_go() -> None:
    among_all, among_half = drawn_ids(IDS, None), drawn_ids(IDS[::2], None)
    assert [one for one in among_all if one in IDS[::2]] == among_half


def test_listed_ids_are_counted_on_both_sides() -> None:
    drawn = draw([(one, None) for one in IDS], limit=None, listed=frozenset({"id-1", "id-2", "absent"}), where="here")
    assert {one for one, _ in drawn.pairs} == {"id-1", "id-2"}
    assert (drawn.num_available, drawn.num_not_listed, drawn.num_listed_but_missing) == (2, 198, 1)


def test_two_records_of_one_id_are_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="id-7"):
        drawn_ids([*IDS, "id-7"], 3)
