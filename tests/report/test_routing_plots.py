"""What the report draws of a router: every count, every bin, every part, and the own threshold at its place."""

import html
import re
from collections import Counter

import numpy as np
import pytest

from moe_ray.formatting import words
from moe_ray.gating.calibration import calibration
from moe_ray.report import routing_plots
from moe_ray.report.svg import panel
from moe_ray.report.sweep_plots import own_point, sweep_plots
from tests.report.conftest import Reported
from tests.report.routing_parts import DOMAINS, changed, regret, routes_of, routing_of, sweep_of
from tests.support.synthetic_routes import synthetic_test


def test_the_confusion_matrix_shows_every_count(routed: Reported) -> None:
    routes = routes_of(routed)
    chosen = [routes.domains[row.argmax()] for row in routes.probabilities]
    counts = Counter(zip(routes.example_domains, chosen, strict=True))
    plot = routing_plots.routing_plots(routed.summary)[0]
    described = html.unescape(plot.svg)
    for (own, other), num in counts.items():
        assert f"{own} taken for {other} {num}" in described
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", plot.svg)
    assert [text for text in shown if text.isdigit()] == [
        str(counts[own, other]) for own in DOMAINS for other in DOMAINS
    ]


@pytest.mark.parametrize("num", [1, 2, 7, 12])
def test_a_matrix_of_any_size_names_all_of_its_labels(num: int) -> None:
    labels = [f"label_{at}" for at in range(num)]
    confusion = [[7 if row == at else 0 for at in range(num)] for row in range(num)]
    plot = routing_plots.confusion_plot("t", labels, confusion, name="c")
    shown = Counter(re.findall(r"<text[^>]*>([^<]+)</text>", plot.svg))
    assert all(shown[words(label)] == 2 for label in labels)
    assert shown["100" if num > 6 else "7"] == num


def test_the_reliability_diagram_counts_every_bin_and_names_the_errors_before_and_after() -> None:
    tested = synthetic_test(DOMAINS)
    curves = [
        routing_plots.CalibrationCurve("before", tested.before_scaling, is_hollow=True),
        routing_plots.CalibrationCurve("after", tested.after_scaling),
    ]
    plot = routing_plots.reliability_plot("t", curves, name="r")
    assert f"error {tested.before_scaling.ece:.3f} before, {tested.after_scaling.ece:.3f} after." in plot.caption
    filled = [str(item.n) for item in tested.after_scaling.bins if item.n]
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", plot.svg)
    assert [text for text in shown if text.isdigit()] == filled
    assert sum(map(int, filled)) == tested.n


def test_losses_are_stacked_to_the_right_of_zero_and_gains_to_the_left() -> None:
    _, axes = panel(100)
    routing_plots._draw_parts(axes, 0, regret("code", wrong_domain=0.3, sent=-0.1, worse=0.2))
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]  # type: ignore[attr-defined]
    assert [sorted(map(float, span)) for span in spans] == [
        pytest.approx(span) for span in ([0, 0.3], [-0.1, 0], [0.3, 0.5])
    ]
    (mark,) = axes.lines
    assert list(mark.get_xdata()) == pytest.approx([0.4])  # type: ignore[arg-type]


@pytest.mark.parametrize(("threshold", "at"), [(-1.0, 0), (0.1, 0), (0.2, 1), (0.5, 1), (0.7, 2), (7.0, 2)])
def test_the_runs_own_threshold_is_marked_where_the_same_queries_go_to_the_baseline(
    routed: Reported, threshold: float, at: int
) -> None:
    sweep = sweep_of(0.1, 0.5, 0.9)
    assert own_point(changed(routed.summary, threshold=threshold), sweep) == sweep.points[at]


def test_the_marked_point_of_a_real_run_is_the_cascade(routed: Reported) -> None:
    """On the examples that both ends have scored: their share below the threshold, counted one by one."""
    routes, sweep = routes_of(routed), routing_of(routed.summary).sweep
    assert sweep is not None
    unscored = {score.example_id for score in routed.scores if score.value is None}
    kept = [row for row, example_id in enumerate(routes.example_ids) if example_id not in unscored]
    out_of_domain = sum(routes.scores[row] < routes.threshold for row in kept)
    assert sweep.n == len(kept)
    assert own_point(routed.summary, sweep).baseline_share == pytest.approx(out_of_domain / len(kept))


def test_both_ends_and_the_own_threshold_have_names_in_both_plots(routed: Reported) -> None:
    plots = sweep_plots(routed.summary)
    assert len(plots) == 2
    for plot in plots:
        shown = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]+)</text>", plot.svg)]
        assert {"router always", "baseline always", "this run's threshold"} <= set(shown)
    assert {"baseline", "experts", "oracle"} <= set(re.findall(r"<text[^>]*>([^<]+)</text>", plots[0].svg))


def test_without_measured_times_the_threshold_alone_is_drawn(routed: Reported) -> None:
    assert [plot.title for plot in sweep_plots(changed(routed.summary, sweep=sweep_of(0.1, 0.5, 0.9)))] == [
        "Quality against the threshold"
    ]
    assert sweep_plots(changed(routed.summary, sweep=None)) == []


def test_the_calibration_that_is_drawn_is_that_of_the_runs_own_examples(routed: Reported) -> None:
    routes = routes_of(routed)
    gold = [routes.domains.index(name) for name in routes.example_domains]
    expected = calibration(routes.probabilities, np.array(gold))
    assert routing_of(routed.summary).calibration == expected
    assert f"{expected.ece:.3f}" in routing_plots.routing_plots(routed.summary)[1].caption
