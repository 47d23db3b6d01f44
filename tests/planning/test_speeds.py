"""How long a run takes, from speeds that are stated or were measured, by arithmetic that a reader can follow."""

from dataclasses import replace

import pytest

from moe_ray.checkpoints.identity import FileHashes, inspect_checkpoint
from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ConfigError
from moe_ray.planning.cells import Shard
from moe_ray.planning.fleet import Demand, simulated_fleet
from moe_ray.planning.simulate import Speed, Stretch, measured_speeds, simulate, stated_speeds, with_sizes
from tests.planning.cells import make_cell, make_shard

WHOLE_GPU = Demand(gpus=1.0, reason="as configured")


def speed(tokens_per_s: float, load_s: float = 0.0) -> Speed:
    return Speed(tokens_per_s=tokens_per_s, load_s=load_s, source="stated")


def test_a_run_lasts_as_long_as_its_tokens_at_the_stated_speed() -> None:
    """8 shards of 2 cells of 8 tokens on one GPU at 2 tokens a second: 128 / 2; on four GPUs a quarter of it."""
    shards = [make_shard("a", number) for number in range(8)]
    for gpus, expected in ((1, 64.0), (4, 16.0)):
        simulation = simulate(simulated_fleet(f"{gpus}x80GiB"), {"a": WHOLE_GPU}, shards, {}, {"a": speed(2.0)})
        assert simulation.duration_s == expected
        assert len(simulation.stays) == gpus, "every GPU is used"


def test_models_that_follow_each_other_load_one_after_the_other() -> None:
    shards = [make_shard("a", 0), make_shard("b", 0)]
    speeds = {"a": speed(16.0, load_s=10.0), "b": speed(8.0, load_s=20.0)}
    simulation = simulate(simulated_fleet("1x80GiB"), dict.fromkeys("ab", WHOLE_GPU), shards, {}, speeds)
    assert simulation.duration_s == (10 + 1) + (20 + 2)


def test_a_time_is_given_only_where_the_speed_of_every_model_is_known() -> None:
    shards = [make_shard("a", 0), make_shard("b", 0)]
    simulation = simulate(simulated_fleet("1x80GiB"), dict.fromkeys("ab", WHOLE_GPU), shards, {}, {"a": speed(1.0)})
    assert simulation.duration_s is None


def test_a_likelihood_writes_nothing_and_counts_as_one_token() -> None:
    cells = (make_cell("a", 1), make_cell("a", 2, kind="likelihood"))
    shard = Shard(id="s", model="a", cells=(cells[0],))
    assert speed(4.0).seconds(shard) == 2.0
    measured = Shard(id="s", model="a", cells=(replace(cells[1], max_new_tokens=0),))
    assert speed(4.0).seconds(measured) == 0.25


def test_a_speed_is_stated_for_all_models_and_for_one() -> None:
    speeds = stated_speeds(["a=2.5k", "1500"], ["a", "b"])
    assert {name: one.tokens_per_s for name, one in speeds.items()} == {"a": 2500.0, "b": 1500.0}


@pytest.mark.parametrize("text", ["fast", "0", "-3", "a=", "c=5", "nan", "1e400", "a=b=3", ""])
def test_a_speed_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stated_speeds([text], ["a", "b"])
    assert caught.value.remedy
    assert caught.value.where == "--speed"


def test_an_unknown_size_can_be_stated() -> None:
    named = ModelConfig(path="org/no-size-in-its-name", engine="endpoint", engine_settings={"base_url": "http://h/v1"})
    checkpoint = inspect_checkpoint("a", named, FileHashes())
    sized = with_sizes({"a": checkpoint, "b": checkpoint}, ["a=3.8B"])
    assert (sized["a"].num_parameters, sized["b"].num_parameters) == (3_800_000_000, None)
    assert sized["a"].identity == checkpoint.identity, "a size decides no answer"


def test_an_earlier_session_tells_the_speed_of_its_models() -> None:
    def stretch(model: str, num_tokens: int, busy_s: float, load_s: float | None) -> Stretch:
        return Stretch(model=model, num_tokens=num_tokens, busy_s=busy_s, load_s=load_s)

    speeds = measured_speeds([stretch("a", 100, 4.0, 3.0), stretch("a", 500, 8.0, 5.0), stretch("b", 0, 0.0, None)])
    assert speeds == {"a": Speed(tokens_per_s=50.0, load_s=4.0, source="measured")}
