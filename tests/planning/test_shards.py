"""Shards follow from the work alone, and a committed shard leaves the others as they were."""

import random

from moe_ray.planning.cells import make_shards, missing_shards
from tests.planning.cells import make_cell

CELLS = [
    make_cell(model, number, kind=kind) for model in "ab" for number in range(23) for kind in ("generate", "likelihood")
]


def test_the_same_cells_give_the_same_shards_in_any_order() -> None:
    shuffled = list(CELLS)
    random.Random(1).shuffle(shuffled)
    first, second = make_shards(CELLS, 5), make_shards(shuffled, 5)
    assert {shard.id: shard.cells for shard in first} == {shard.id: shard.cells for shard in second}


def test_shards_hold_every_cell_once_and_one_model_and_kind_each() -> None:
    shards = make_shards(CELLS, 5)
    assert sorted(cell.key for shard in shards for cell in shard.cells) == sorted(cell.key for cell in CELLS)
    for shard in shards:
        assert 1 <= len(shard.cells) <= 5
        assert {(cell.model, cell.kind) for cell in shard.cells} == {(shard.model, shard.cells[0].kind)}
    assert len({shard.id for shard in shards}) == len(shards)


def test_committed_shards_leave_the_others_whole() -> None:
    shards = make_shards(CELLS, 5)
    done = {cell.key for shard in shards[::2] for cell in shard.cells}
    assert missing_shards(shards, done) == shards[1::2]


def test_cells_that_were_done_in_another_division_are_cut_out() -> None:
    shards = make_shards(CELLS, 5)
    done = {shard.cells[0].key for shard in shards}
    missing = missing_shards(shards, done)
    assert sorted(cell.key for shard in missing for cell in shard.cells) == sorted({c.key for c in CELLS} - done)
    assert not {shard.id for shard in missing} & {shard.id for shard in shards}


def test_nothing_is_missing_when_all_is_done() -> None:
    assert missing_shards(make_shards(CELLS, 5), {cell.key for cell in CELLS}) == []
