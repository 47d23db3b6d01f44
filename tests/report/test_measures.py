"""How differences are drawn, how columns find their unit, and what a price is held against."""

import html
import io

import pytest
from rich.console import Console

from moe_ray import formatting as text
from moe_ray.comparison.records import CostRatio, ExampleCost, PairedComparison
from moe_ray.report.conclusions import effects
from moe_ray.report.measures import Price, cost_table, is_shown, latency_table, memory_table, price_line, price_sentence
from moe_ray.report.tables import summary_tables
from moe_ray.report.verdict import headline
from moe_ray.report.views import MetricView, domain_views
from tests.report.conftest import Reported
from tests.support.synthetic_run import METRICS

MINUS, TIMES = text.MINUS, "\N{MULTIPLICATION SIGN}"


def metric(*, unit: str = "", higher_is_better: bool = True) -> MetricView:
    return MetricView(
        name="m", title="m", definition="", unit=unit, higher_is_better=higher_is_better, values=(), comparisons=()
    )


def compared(difference: float | None, low: float | None = None, high: float | None = None) -> PairedComparison:
    return PairedComparison(
        system_a="experts",
        system_b="baseline",
        domain="d",
        metric="m",
        value_a=0.5,
        value_b=0.5,
        difference=difference,
        low=low,
        high=high,
        p_value=None,
        p_adjusted=None,
        test=None,
        n_pairs=10,
        n_dropped=0,
        verdict="no_difference_shown",
    )


def cost(
    system: str, busy_s: float, *, memory_byte_s: float | None = None, kind: str = "torch", n: int = 7
) -> ExampleCost:
    return ExampleCost.model_validate(
        {
            "system": system,
            "domain": "d",
            "n": n,
            "busy_s": busy_s,
            "memory_byte_s": memory_byte_s,
            "memory_kind": kind if memory_byte_s is not None else None,
        }
    )


def test_a_difference_is_drawn_on_the_side_of_whom_it_favours() -> None:
    (effect,) = effects([(compared(0.3, 0.15, 0.45), metric())])
    assert effect is not None
    assert (effect.left, effect.right) == (f"{MINUS}0.6", "+0.6")
    assert (effect.start, effect.at, effect.end) == (62.5, 75.0, 87.5)


def test_where_lower_is_better_the_line_is_turned_and_its_ends_say_so() -> None:
    (effect,) = effects([(compared(-0.3, -0.45, -0.15), metric(higher_is_better=False))])
    assert effect is not None
    assert (effect.left, effect.right) == ("+0.6", f"{MINUS}0.6")
    assert (effect.start, effect.at, effect.end) == (62.5, 75.0, 87.5)


def test_shares_are_drawn_on_one_scale_and_what_has_a_unit_on_its_own() -> None:
    pairs = [
        (compared(0.01, 0.0, 0.02), metric()),
        (compared(0.4, 0.3, 0.5), metric()),
        (compared(7, 5, 9), metric(unit="bits")),
    ]
    assert [effect.right if effect else None for effect in effects(pairs)] == ["+0.6", "+0.6", "+10"]


def test_a_difference_without_an_interval_is_a_mark_alone_and_no_difference_is_nothing() -> None:
    mark, nothing = effects([(compared(0.0), metric()), (compared(None), metric())])
    assert nothing is None
    assert mark is not None
    assert (mark.start, mark.at, mark.end) == (None, 50.0, None)


@pytest.mark.parametrize("difference", [1e-9, 0.0499, 0.05, 0.0601, 0.1, 0.99, 1.0, 3.7, 250.0])
def test_every_difference_lies_on_its_line(difference: float) -> None:
    (effect,) = effects([(compared(difference, -difference, difference), metric())])
    assert effect is not None
    assert effect.start is not None
    assert 0 <= effect.start <= 50 <= effect.at <= 100


@pytest.mark.parametrize(
    ("values", "unit", "shown"),
    [
        ([0.549, 1.19, 1.73], "s", ["0.55", "1.19", "1.73"]),
        ([0.313, 0.344, None], "ms", ["313", "344", text.NONE]),
        ([2e-6], "µs", ["2.00"]),
        ([700.0, 1200.0], "min", ["11.7", "20.0"]),
        ([0.0, 0.0], "µs", ["0", "0"]),
        ([None], "µs", [text.NONE]),
        ([0.002, 50.0, 60.0], "s", ["0.002", "50.000", "60.000"]),
    ],
)
def test_a_column_has_one_unit_and_one_number_of_decimals(
    values: list[float | None], unit: str, shown: list[str]
) -> None:
    assert text.in_one_unit(values, text.SECONDS) == (unit, shown)


def test_bytes_change_their_unit_where_single_sizes_do() -> None:
    for size in (1, 999, 1000, 1024, 999 * 1024, 1000 * 1024, 5 * 1024**3, 2000 * 1024**3):
        unit, _ = text.in_one_unit([float(size)], text.BYTES)
        assert text.size(size).endswith(f" {unit}")


def test_prices_are_ratios_to_the_baselines_and_say_their_n() -> None:
    mine = cost("experts", 4.2, memory_byte_s=30.0, n=8)
    ratios = {"time_ratio": ratio(2.1, 1.5, 2.9), "memory_ratio": ratio(0.75, 0.5, 1.1)}
    price = Price(cost=mine.model_copy(update=ratios), baseline=cost("baseline", 2.0, memory_byte_s=40.0))
    line = price_line(price, "experts").replace(text.NO_BREAK, " ")
    busy = f"experts 4.20 s, baseline 2.00 s (2.10 {TIMES} [1.50, 2.90])"
    assert line == f"Compute time per example: {busy}, memory-seconds 0.75 {TIMES} [0.50, 1.10], n = 8 and 7"
    low = cost("experts", 1.0).model_copy(update={"time_ratio": ratio(0.5, 0.4, 0.7)})
    sentence = price_sentence([price, Price(cost=low, baseline=cost("baseline", 2.0))], "experts")
    assert sentence.replace(text.NO_BREAK, " ") == (
        "One example costs the experts 0.50 to 2.10 times the baseline's compute time (95 % intervals 0.40 to 2.90)."
    )


def test_a_ratio_whose_interval_holds_1_is_not_spoken_of_but_stands_with_its_domain() -> None:
    mine = cost("experts", 2.4).model_copy(update={"time_ratio": ratio(1.2, 0.95, 1.5)})
    price = Price(cost=mine, baseline=cost("baseline", 2.0))
    assert price_sentence([price], "experts") == ""
    assert "no difference in time shown" in price_line(price, "experts")


def ratio(value: float, low: float | None, high: float | None) -> CostRatio:
    return CostRatio(value=value, low=low, high=high, num_batches=9)


def test_what_the_experts_cost_is_said_at_the_top_of_the_terminal_and_of_the_page(reported: Reported) -> None:
    sentence = headline(reported.summary).cost
    costs = [cost for name in METRICS if (cost := reported.summary.cost("experts", name))]
    shown_ratios = [cost.time_ratio for cost in costs if is_shown(cost.time_ratio)]
    assert bool(shown_ratios) == ("compute time" in sentence)
    stream = io.StringIO()
    Console(width=200, file=stream).print(summary_tables(reported.summary))
    shown = stream.getvalue()
    assert sentence in shown[shown.index(headline(reported.summary).sentence) :]
    assert sentence in html.unescape(reported.page)[: reported.page.index('class="verdicts"')]


def test_memory_that_was_measured_otherwise_is_not_held_against_the_baselines() -> None:
    mine, other = cost("experts", 1.0, memory_byte_s=1.0), cost("baseline", 1.0, memory_byte_s=1.0, kind="resident")
    assert "memory" not in price_line(Price(cost=mine, baseline=other), "experts")
    assert price_sentence([Price(cost=mine, baseline=None)], "experts") == ""


def test_the_tables_of_measures_hold_every_row_in_every_column(reported: Reported) -> None:
    summary = reported.summary
    views = domain_views(summary)
    for table in (cost_table(summary, views), latency_table(summary.models), memory_table(summary.models)):
        assert len(table.names) == len(table.notes) == table.groups[-1].end > 0
        for column in table.columns:
            assert len(column.cells) == len(table.names)
            assert len(column.notes) in (0, len(table.names))


def test_a_table_of_measures_says_what_the_summary_says(reported: Reported) -> None:
    summary = reported.summary
    table = latency_table(summary.models)
    column = next(column for column in table.columns if column.title == "p50 (s)")
    whole = [item.p50_s for model in summary.models.values() for item in model.latency if item.quantity == "total_s"]
    assert [float(cell) for cell in column.cells] == pytest.approx(whole, abs=0.005)
