"""cluster/grafana-dashboard.json asks for metrics that the code exposes, and every metric has a help text."""

import ast
import json
import re
from pathlib import Path

from moe_ray.serving.metrics import HELP, MetricCounts, exposition

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "cluster" / "grafana-dashboard.json"
METRIC = re.compile(r"\bmoe_ray_[a-z_]+")
SERIES = re.compile(r"_(bucket|sum|count)$")


def exposed() -> set[str]:
    """The names that the serving code writes. A name with a part to fill in stands for its two kinds of tokens."""
    names: set[str] = set()
    for path in (ROOT / "moe_ray" / "serving").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and METRIC.fullmatch(node.value):
                names.add(node.value)
            elif isinstance(node, ast.JoinedStr) and ast.unparse(node) == "f'moe_ray_{name}_tokens_total'":
                names |= {"moe_ray_prompt_tokens_total", "moe_ray_completion_tokens_total"}
    return names - {"moe_ray_"}


def asked() -> set[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    return {SERIES.sub("", name) for expression in expressions for name in METRIC.findall(expression)}


def test_the_dashboard_asks_only_for_metrics_that_are_exposed() -> None:
    assert len(asked()) > 10
    assert asked() - exposed() == set()


def test_every_metric_is_in_the_dashboard_and_described() -> None:
    assert exposed() - asked() == set()
    assert exposed() - HELP.keys() == set()


def test_a_histogram_is_exposed_with_the_series_that_the_dashboard_uses() -> None:
    counts = MetricCounts()
    counts.observe("moe_ray_request_seconds", 0.02)
    text = exposition(counts, {}, HELP)
    for ending in ("bucket", "sum", "count"):
        assert f"moe_ray_request_seconds_{ending}" in text


def test_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    taken = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
