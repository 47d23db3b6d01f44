"""Counters and histograms of the ingress replicas, summed by the slots' owner and written for Prometheus."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]
BOUNDS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

HELP = {
    "moe_ray_requests_total": "Requests by path and status.",
    "moe_ray_request_seconds": "Seconds from a request's head to its last byte.",
    "moe_ray_engine_seconds": "Seconds of a call inside its model's process.",
    "moe_ray_prompt_tokens_total": "Tokens of prompts of answered calls, by model.",
    "moe_ray_completion_tokens_total": "Tokens drawn for answered calls, by model.",
    "moe_ray_replica_deaths_total": "Times that a model's process ended under a call, by model.",
    "moe_ray_recording_dropped_total": "Answers that could not be recorded.",
    "moe_ray_model_waiting_requests": "Calls that wait for a model.",
    "moe_ray_model_loaded": "1 where a model is loaded.",
    "moe_ray_refusals_total": "Calls that were not admitted.",
    "moe_ray_waiting_requests": "Calls that wait for a slot.",
    "moe_ray_running_requests": "Calls that were admitted and have not ended.",
    "moe_ray_swaps": "Models unloaded to make room for another.",
    "moe_ray_queue_seconds": "Seconds that a call waited for its slot, swaps apart.",
    "moe_ray_swap_seconds": "Seconds that a call waited while its slot loaded or unloaded a model.",
    "moe_ray_router_seconds": "Seconds that the router took for a call.",
}


@dataclass(slots=True)
class MetricCounts:
    """What one ingress has counted since it started. `observed` holds a histogram's counts by bound, and its sum."""

    counts: dict[tuple[str, Labels], float] = field(default_factory=dict)
    observed: dict[tuple[str, Labels], list[float]] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Increase a counter."""
        key = name, tuple(sorted(labels.items()))
        self.counts[key] = self.counts.get(key, 0.0) + amount

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add a duration to a histogram."""
        key = name, tuple(sorted(labels.items()))
        row = self.observed.setdefault(key, [0.0] * (len(BOUNDS_S) + 2))
        place = next((index for index, bound in enumerate(BOUNDS_S) if seconds <= bound), len(BOUNDS_S))
        row[place] += 1
        row[-1] += seconds


def merged(snapshots: Iterable[MetricCounts]) -> MetricCounts:
    """Return the sum."""
    total = MetricCounts()
    for one in snapshots:
        for key, amount in one.counts.items():
            total.counts[key] = total.counts.get(key, 0.0) + amount
        for key, row in one.observed.items():
            known = total.observed.get(key, [0.0] * len(row))
            total.observed[key] = [a + b for a, b in zip(known, row, strict=True)]
    return total


def exposition(snapshot: MetricCounts, gauges: Mapping[tuple[str, Labels], float], help_: Mapping[str, str]) -> str:
    """Return the text format of Prometheus; `help_` describes each metric by its name."""
    lines: list[str] = []
    described: set[str] = set()

    def describe(name: str, kind: str) -> None:
        if name not in described:
            described.add(name)
            lines.extend((f"# HELP {name} {help_.get(name, name)}", f"# TYPE {name} {kind}"))

    for (name, labels), amount in sorted(snapshot.counts.items()):
        describe(name, "counter")
        lines.append(f"{name}{_written(labels)} {_number(amount)}")
    for (name, labels), amount in sorted(gauges.items()):
        describe(name, "gauge")
        lines.append(f"{name}{_written(labels)} {_number(amount)}")
    for (name, labels), row in sorted(snapshot.observed.items()):
        describe(name, "histogram")
        total = 0.0
        for bound, count in zip((*BOUNDS_S, None), row[:-1], strict=True):
            total += count
            le = "+Inf" if bound is None else f"{bound:g}"
            lines.append(f"{name}_bucket{_written((*labels, ('le', le)))} {_number(total)}")
        lines.append(f"{name}_sum{_written(labels)} {_number(row[-1])}")
        lines.append(f"{name}_count{_written(labels)} {_number(total)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """All digits: a rate is the difference of two large counts."""
    return str(int(value)) if value.is_integer() else repr(value)


def _written(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for _, value in labels)
    return "{" + ",".join(f'{name}="{value}"' for (name, _), value in zip(labels, escaped, strict=True)) + "}"
