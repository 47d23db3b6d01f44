"""The own parts of the benchmark of mixtures trained apart: texts, table, intervals, and the sentence that judges."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.moe_apart import __main__ as command
from benchmarks.moe_apart.clock import Clock
from benchmarks.moe_apart.comparing import LABELS
from benchmarks.moe_apart.measuring import parameter_counts
from benchmarks.moe_apart.sizes import FULL, PARTS, SMALL, Size
from benchmarks.moe_apart.texts import DOMAINS, expert_texts, read_texts, write_experiment
from benchmarks.moe_apart.verdict import (
    AVERAGE,
    Row,
    bits_per_byte,
    difference_table,
    differences,
    missing_rows,
    sentence,
    table,
)
from moe_ray.moe.verify import Finding

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not (DATA / "ood").is_dir(), reason="needs ../shared/data")

NUM_BYTES = {"coding": [100, 300, 200] * 20, "math": [50, 150] * 30}


def row(label: str, bits: dict[str, float], *, noise: float = 0.0, seed: int = 0) -> Row:
    """A model that needs `bits` for a byte of each domain, give or take `noise` for each text."""
    rng = np.random.default_rng(seed)
    nats = {
        name: [size * math.log(2) * (bits[name] + noise * rng.standard_normal()) for size in own]
        for name, own in NUM_BYTES.items()
    }
    return Row(label=label, num_tokens=2_000_000, num_parameters=3_000, num_active=1_000, seconds=12.3, nats=nats)


def test_bits_per_byte_weigh_texts_by_length_and_domains_alike() -> None:
    nats = {"coding": [math.log(2) * 200, 0.0], "math": [math.log(2) * 300]}
    found = bits_per_byte(nats, {"coding": [100, 300], "math": [100]})
    assert found == pytest.approx({"coding": 0.5, "math": 3.0, AVERAGE: 1.75})


def test_a_difference_is_that_of_the_figures_and_lies_in_its_interval() -> None:
    first = row("a", {"coding": 1.0, "math": 2.0}, noise=0.2, seed=1)
    second = row("b", {"coding": 1.3, "math": 1.9}, noise=0.2, seed=2)
    found = differences(first.nats, second.nats, NUM_BYTES)
    one, other = (bits_per_byte(each.nats, NUM_BYTES) for each in (first, second))
    for name, difference in found.items():
        assert difference.value == pytest.approx(one[name] - other[name])
        assert difference.low < difference.value < difference.high


def test_an_interval_is_as_wide_as_the_texts_differ_and_draws_the_same_texts_for_both() -> None:
    first = row("a", {"coding": 1.0, "math": 2.0}, noise=0.5, seed=1)
    shifted = {name: [nats + 0.1 * size for nats, size in zip(own, NUM_BYTES[name], strict=True)]
               for name, own in first.nats.items()}  # fmt: skip
    found = differences(shifted, first.nats, NUM_BYTES)[AVERAGE]
    assert found.high - found.low < 1e-9
    assert found.value == pytest.approx(0.1 / math.log(2))
    noisy = {name: np.asarray(own) + np.random.default_rng(3).normal(0, 20, len(own))
             for name, own in first.nats.items()}  # fmt: skip
    wide = differences({name: own.tolist() for name, own in noisy.items()}, first.nats, NUM_BYTES)["math"]
    expected = 2 * 1.96 * 20 * math.sqrt(60) / math.log(2) / sum(NUM_BYTES["math"])
    assert wide.high - wide.low == pytest.approx(expected, rel=0.25)


def test_the_sentence_names_the_winner_on_average_and_by_domain() -> None:
    mixture = row("tuned", {"coding": 1.0, "math": 2.2}, noise=0.05, seed=1)
    dense = row("whole", {"coding": 1.2, "math": 2.1}, noise=0.05, seed=2)
    said = sentence(mixture, dense, NUM_BYTES)
    assert said.startswith("On average the mixture wins: ")
    assert said.endswith("by domain coding: the mixture, math: the dense model.")
    assert sentence(dense, mixture, NUM_BYTES).startswith("On average the dense model wins: ")


def test_a_difference_within_noise_is_no_win() -> None:
    mixture = row("tuned", {"coding": 1.0, "math": 2.0}, noise=0.5, seed=1)
    dense = row("whole", {"coding": 1.0, "math": 2.0}, noise=0.5, seed=2)
    said = sentence(mixture, dense, NUM_BYTES)
    assert said.startswith("On average neither wins: ")
    assert "coding: neither, math: neither" in said


def test_the_table_has_a_line_for_each_row_and_the_fewest_bits_bold() -> None:
    rows = [row("a", {"coding": 1.0, "math": 2.0}), row("b", {"coding": 1.5, "math": 1.75})]
    assert table(rows, NUM_BYTES)[2:] == [
        "| a | **1.0000** | 2.0000 | **1.5000** | 2.00 | 0.003 | 0.001 | 12 |",
        "| b | 1.5000 | **1.7500** | 1.6250 | 2.00 | 0.003 | 0.001 | 12 |",
    ]
    compared = difference_table(rows[0], rows[1:], NUM_BYTES)
    assert compared[2].startswith("| b | -0.5000 [-0.5000, -0.5000] | +0.2500 [+0.2500, +0.2500] | -0.1250 [")


def test_a_row_that_is_not_there_or_has_no_figure_is_missing() -> None:
    good, bad = (row(label, {"coding": 1.0, "math": 2.0}) for label in ("good", "bad"))
    short = row("short", {"coding": 1.0, "math": 2.0})
    broken = Row(
        label="bad", num_tokens=1, num_parameters=1, num_active=1, seconds=1, nats={**bad.nats, "math": [math.nan] * 60}
    )
    cut = Row(
        label="short", num_tokens=1, num_parameters=1, num_active=1, seconds=1, nats={"coding": short.nats["coding"]}
    )
    assert missing_rows([good, broken, cut], ["good", "bad", "short", "gone"], NUM_BYTES) == ["bad", "short", "gone"]


def test_what_does_not_hold_or_cannot_be_checked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding(what="tensors", holds=True),
        Finding(what="exactness against math", holds=False, detail="by 0.3"),
        Finding(what="sources", holds=None, detail="gone"),
    ]
    monkeypatch.setattr(command, "verify", lambda _: iter(findings))
    told = ["m: exactness against math: by 0.3", "m: sources: gone"]
    assert list(command.broken_claims([Path("m")])) == told


def test_active_parameters_are_those_of_the_experts_that_answer() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 3, bias=False)
            self.experts = nn.ParameterList([torch.zeros(3, 8, 4)])

    model = nn.ModuleDict({"layer": nn.ModuleDict({"mlp": Layer()}), "embedding": nn.Embedding(10, 4)})
    config = SimpleNamespace(num_experts=3, num_experts_per_tok=2)
    model.config = config  # type: ignore[assignment]
    assert parameter_counts(model) == (40 + 12 + 96, 40 + 12 + 64)
    assert parameter_counts(nn.Linear(4, 3, bias=False)) == (12, 12)


def test_seconds_add_up_and_are_known_to_the_next_command(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    clock.start()
    clock.lap(tmp_path / "a" / "b")
    first = clock.seconds(tmp_path / "a" / "b")
    clock.lap(tmp_path / "a" / "b")
    assert clock.seconds(tmp_path / "a" / "b") > first > 0
    assert Clock(tmp_path).seconds(tmp_path / "a" / "b") == clock.seconds(tmp_path / "a" / "b")


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_every_part_is_tried_with_two_rates_and_every_domain_has_a_limit(size: Size) -> None:
    assert set(size.rates) == set(PARTS)
    assert all(len(set(rates)) >= 2 for rates in size.rates.values())
    assert set(size.max_texts) == set(DOMAINS)
    assert len(set(LABELS)) == len(LABELS) == 1 + 3 + 2 + 4 + 4 + 2


@needs_data
def test_settings_are_chosen_on_other_texts_than_are_measured_or_trained_on(tmp_path: Path) -> None:
    folder = command.folder_of(tmp_path, DATA, SMALL)
    assert folder != command.folder_of(tmp_path, DATA, FULL)
    write_experiment(folder, DATA)
    texts = read_texts(folder, expert_texts(DATA, SMALL.max_texts))
    parts = [{text for own in part.values() for text in own} for part in (texts.train, texts.choosing, texts.measured)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == sum(SMALL.max_texts.values())
    assert {name: len(own) for name, own in texts.measured.items()} == {"coding": 6, "math": 4, "biomedical": 2}
    assert "<<" not in "".join(texts.train["math"])
