"""The ingress replicas' counts: summed, and written so that Prometheus' own parser reads them back."""

from prometheus_client.parser import text_string_to_metric_families

from moe_ray.serving.metrics import BOUNDS_S, HELP, MetricCounts, exposition, merged


def counted(*amounts: float, **labels: str) -> MetricCounts:
    found = MetricCounts()
    for amount in amounts:
        found.add("moe_ray_requests_total", amount, **labels)
    return found


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_of_several_ingress_replicas_add_up_by_their_labels() -> None:
    total = merged([counted(1, 2, status="200"), counted(4, status="200"), counted(8, status="503")])
    assert total.counts == {
        ("moe_ray_requests_total", (("status", "200"),)): 7,
        ("moe_ray_requests_total", (("status", "503"),)): 8,
    }


def test_histograms_add_up_and_the_summands_stay_as_they_were() -> None:
    one, other = MetricCounts(), MetricCounts()
    one.observe("moe_ray_queue_seconds", 0.5)
    other.observe("moe_ray_queue_seconds", 2.0)
    both = merged([one, other])
    found = samples(exposition(both, {}, HELP))
    assert found["moe_ray_queue_seconds_sum", ()] == 2.5
    assert found["moe_ray_queue_seconds_count", ()] == 2
    assert samples(exposition(one, {}, HELP))["moe_ray_queue_seconds_count", ()] == 1
    assert merged([]) == MetricCounts()


def test_a_bucket_holds_all_that_took_no_longer_than_its_bound() -> None:
    counts = MetricCounts()
    for seconds in (0.0, BOUNDS_S[0], 0.02, BOUNDS_S[-1], BOUNDS_S[-1] + 1):
        counts.observe("moe_ray_queue_seconds", seconds, model="m")
    found = samples(exposition(counts, {}, HELP))
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if name == "moe_ray_queue_seconds_bucket"
    }
    assert buckets[f"{BOUNDS_S[0]:g}"] == 2
    assert buckets["0.03"] == 3
    assert buckets[f"{BOUNDS_S[-1]:g}"] == 4
    assert buckets["+Inf"] == found["moe_ray_queue_seconds_count", (("model", "m"),)] == 5
    assert list(buckets.values()) == sorted(buckets.values())


def test_labels_survive_quotes_backslashes_and_line_breaks() -> None:
    hostile = 'a"b\\c\nd}{,e="f"'
    found = samples(exposition(counted(1, model=hostile), {}, HELP))
    assert found["moe_ray_requests_total", (("model", hostile),)] == 1


def test_large_counts_keep_every_digit() -> None:
    found = samples(exposition(counted(16_777_217, 1_000_000), {("moe_ray_swaps", ()): 1_234_567.0}, HELP))
    assert found["moe_ray_requests_total", ()] == 17_777_217
    assert found["moe_ray_swaps", ()] == 1_234_567


def test_each_metric_is_described_once_with_its_kind() -> None:
    counts = merged([counted(1, status="200"), counted(1, status="503")])
    counts.observe("moe_ray_queue_seconds", 1.0)
    text = exposition(counts, {("moe_ray_swaps", ()): 1.0}, HELP)
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert kinds == {
        "moe_ray_requests": "counter",
        "moe_ray_swaps": "gauge",
        "moe_ray_queue_seconds": "histogram",
    }
    assert text.count("# TYPE moe_ray_requests_total") == 1
    assert "# HELP moe_ray_requests_total Requests by path and status." in text
