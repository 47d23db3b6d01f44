"""A replica's figures as Ray metrics, which Ray's agent exports to Prometheus."""

from collections.abc import Sequence

from moe_ray.store.answers import Answer

_SECONDS_BOUNDARIES = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


class ReplicaMetrics:
    """Counters, gauges and a latency histogram, tagged with model, replica and domain."""

    def __init__(self, model: str, replica: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        tags = ("model", "replica")
        self._tags = {"model": model, "replica": replica}
        self._answers = Counter("moe_ray_answers", "Answers computed.", tag_keys=(*tags, "domain"))
        self._tokens = Counter("moe_ray_completion_tokens", "Tokens drawn.", tag_keys=tags)
        self._busy = Counter("moe_ray_busy_seconds", "Seconds inside the engine.", tag_keys=tags)
        self._latency = Histogram(
            "moe_ray_answer_seconds",
            "Seconds from a batch's start to an answer's end.",
            boundaries=_SECONDS_BOUNDARIES,
            tag_keys=(*tags, "domain"),
        )
        self._resident = Gauge("moe_ray_peak_resident_bytes", "Peak resident set of the replica.", tag_keys=tags)
        self._device = Gauge("moe_ray_gpu_used_bytes", "Memory in use on the replica's GPUs.", tag_keys=tags)

    def shard_done(
        self, answers: Sequence[Answer], busy_s: float, peak_resident_bytes: int, gpu_bytes: int | None
    ) -> None:
        """Count a shard's answers."""
        for answer in answers:
            tags = {**self._tags, "domain": answer.domain}
            self._answers.inc(1, tags=tags)
            self._latency.observe(answer.total_s, tags=tags)
        num_tokens = sum(answer.num_completion_tokens for answer in answers)
        if num_tokens:
            self._tokens.inc(num_tokens, tags=self._tags)
        self._busy.inc(max(busy_s, 1e-9), tags=self._tags)
        self._resident.set(peak_resident_bytes, tags=self._tags)
        if gpu_bytes is not None:
            self._device.set(gpu_bytes, tags=self._tags)
