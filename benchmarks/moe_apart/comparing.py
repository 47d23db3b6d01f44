"""The rows: the anchor, experts alone, mixtures before and after finetune, dense models, and perfect routing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.moe_apart.measuring import Measured, measure
from benchmarks.moe_apart.sizes import Size
from benchmarks.moe_apart.texts import DOMAINS, Texts, byte_counts
from benchmarks.moe_apart.trainings import FINETUNED, TOP_K, Trainings
from benchmarks.moe_apart.verdict import AVERAGE, ByText, Row, bits_per_byte
from moe_ray.moe.btx.pretrain import EXPERTS

ANCHOR_LABEL = "anchor"
ALONE = {name: f"expert {name} alone" for name in DOMAINS}
TOP_KS = (1, TOP_K)
BEFORE = {top_k: f"mixture before finetune, top-{top_k}" for top_k in TOP_KS}
AFTER = {(part, top_k): f"{part} trained, top-{top_k}" for part in FINETUNED for top_k in TOP_KS}
EQUAL_TRAINING = "dense, from the anchor (active parameters of top-1)"
FROM_NOTHING = {
    1: "dense, from nothing (active parameters of top-1)",
    2: "dense, from nothing (active parameters of top-2)",
    3: "dense, from nothing (all the mixture's parameters)",
}
DENSE = (EQUAL_TRAINING, *FROM_NOTHING.values())
PERFECT = "experts alone, perfect routing"
PERFECT_WHOLE = "whole models trained apart, perfect routing"
BOUNDS = (PERFECT, PERFECT_WHOLE)
LABELS = (ANCHOR_LABEL, *ALONE.values(), *BEFORE.values(), *AFTER.values(), *DENSE, *BOUNDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What trainings took."""

    num_tokens: int
    seconds: float

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(num_tokens=self.num_tokens + other.num_tokens, seconds=self.seconds + other.seconds)


class Comparison:
    """Makes what is missing below `folder`, and measures it. `told` hears which learning rates were chosen.

    Every training but the anchor's is done whole at each of its rates; the fewest bits on the choosing texts decide.
    """

    def __init__(
        self,
        folder: Path,
        texts: Texts,
        size: Size,
        trainings: Trainings,
        *,
        num_threads: int,
        told: Callable[[str], object],
    ) -> None:
        self._folder, self._texts, self._size, self._trainings = folder, texts, size, trainings
        self._num_threads, self._told = num_threads, told
        self._after_bits: dict[str, float] = {}
        self.mixtures: list[Path] = []
        """The checkpoints of the rows that are mixtures."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows in the order of `LABELS`."""
        trainings, steps = self._trainings, self._size.expert_steps
        pretrained = self._best(
            "experts", "experts, by their mixture", trainings.pretrained, lambda out: trainings.mixture(out, TOP_K)
        )
        anchor = self._spent(trainings.anchor, self._size.anchor_steps)
        yield self._row(ANCHOR_LABEL, trainings.anchor, anchor)
        apart, nats = anchor, dict[str, list[float]]()
        for name, label in ALONE.items():
            expert = pretrained / EXPERTS / name
            spent = self._spent(expert, steps)
            apart += spent
            row = self._row(label, expert, anchor + spent)
            nats[name] = list(row.nats[name])
            yield row
        yield from self._mixtures(pretrained, apart)
        yield from self._dense(anchor)
        yield self._row(PERFECT, trainings.mixture(pretrained, 1), apart, nats)
        yield self._whole_apart(anchor)

    def _mixtures(self, pretrained: Path, apart: Spent) -> Iterator[Row]:
        """Yield the rows of the mixtures, before and after finetune."""
        mixtures = {top_k: self._trainings.mixture(pretrained, top_k) for top_k in TOP_KS}
        self.mixtures += mixtures.values()
        for top_k, label in BEFORE.items():
            yield self._row(label, mixtures[top_k], apart)
        for (part, top_k), label in AFTER.items():
            tuned = self._best(part, label, partial(self._trainings.finetuned, mixtures[top_k], part, top_k))
            self.mixtures.append(tuned)
            self._after_bits[label] = self._choosing_bits(tuned)
            yield self._row(label, tuned, apart + self._spent(tuned, self._size.finetune_steps))

    def _dense(self, anchor: Spent) -> Iterator[Row]:
        """Yield the rows of the dense models, which learn from as many tokens as all of the mixture."""
        size, trainings, texts = self._size, self._trainings, self._texts.everything
        steps = len(DOMAINS) * size.expert_steps + size.finetune_steps
        make = partial(trainings.dense, "dense, from the anchor", trainings.anchor, texts, steps)
        trained = self._best("dense, from the anchor", EQUAL_TRAINING, make)
        yield self._row(EQUAL_TRAINING, trained, anchor + self._spent(trained, steps))
        steps += size.anchor_steps
        for networks, label in FROM_NOTHING.items():
            make = partial(trainings.dense, f"dense, {networks} networks", trainings.untrained(networks), texts, steps)
            trained = self._best("dense, from nothing", label, make)
            yield self._row(label, trained, self._spent(trained, steps))

    def _whole_apart(self, anchor: Spent) -> Row:
        """The row of one dense model for each domain, trained whole as long as an expert: what freezing costs."""
        spent, nats, steps, start = anchor, dict[str, list[float]](), self._size.expert_steps, self._trainings.anchor
        for name, texts in self._texts.train.items():
            make = partial(self._trainings.dense, f"dense, {name}", start, texts, steps)
            trained = self._best("dense, from the anchor", f"dense, {name}", make, column=name)
            nats[name] = self._measured(trained, self._texts.measured).nats[name]
            spent += self._spent(trained, steps)
        row = self._row(PERFECT_WHOLE, start, spent, nats)
        return replace(row, num_parameters=len(DOMAINS) * row.num_parameters)

    def main_mixture(self, rows: Sequence[Row]) -> Row:
        """Of the rows after finetune, the one with the fewest bits on the choosing texts."""
        label = min(self._after_bits, key=self._after_bits.__getitem__)
        return next(row for row in rows if row.label == label)

    def _best(
        self,
        part: str,
        what: str,
        make: Callable[[float], Path],
        judged: Callable[[Path], Path] = lambda made: made,
        column: str = AVERAGE,
    ) -> Path:
        """Make what is asked for at each of the part's learning rates, and return the best by the choosing texts."""
        made = {rate: make(rate) for rate in self._size.rates[part]}
        bits = {rate: self._choosing_bits(judged(path), column) for rate, path in made.items()}
        best = min(bits, key=bits.__getitem__)
        self._told(f"{what}: " + ", ".join(f"{one:.4f} at {rate:g}" for rate, one in bits.items()) + f"; {best:g}")
        return made[best]

    def _choosing_bits(self, checkpoint: Path, column: str = AVERAGE) -> float:
        found = self._measured(checkpoint, self._texts.choosing)
        return bits_per_byte(found.nats, byte_counts(self._texts.choosing))[column]

    def _measured(self, checkpoint: Path, texts: Mapping[str, tuple[str, ...]]) -> Measured:
        return measure(checkpoint, texts, self._folder / "measured", num_threads=self._num_threads)

    def _spent(self, checkpoint: Path, steps: int) -> Spent:
        return Spent(num_tokens=steps * self._size.step_tokens, seconds=self._trainings.seconds(checkpoint))

    def _row(self, label: str, checkpoint: Path, spent: Spent, nats: ByText | None = None) -> Row:
        measured = self._measured(checkpoint, self._texts.measured)
        return Row(
            label=label,
            num_tokens=spent.num_tokens,
            num_parameters=measured.num_parameters,
            num_active=measured.num_active,
            seconds=spent.seconds,
            nats=nats or measured.nats,
        )
