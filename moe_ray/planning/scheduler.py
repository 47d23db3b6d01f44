"""The one scheduler: which model takes which slot, and which shard goes where next.

Slots take shards from the model with the most work left per slot; when a model's queue is dry, its slot goes to
another. One GPU, or one CPU, is the case of one slot: models are loaded and unloaded in turn by the same rules.

It is a pure state machine. The executor tells it what happened on Ray; the planner drives it with a clock.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moe_ray.planning.cells import Attempts, Shard
from moe_ray.planning.fleet import Demand, Fleet, Node, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """An order to start a replica: one copy of `model` on `slot`."""

    replica: str
    model: str
    slot: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """Work that will not be done, and why."""

    model: str
    shard: str | None
    num_cells: int
    reason: str


@dataclass(slots=True)
class _Replica:
    start: Start
    failures_before: int
    leaving: bool = False
    in_flight: dict[str, Shard] = field(default_factory=dict)


@dataclass(slots=True)
class _Pace:
    """How fast a model turned out to be: seconds to load it, and seconds for each unit of cost (cells x cost)."""

    load_s: float | None = None
    busy_s: float = 0.0
    cost_done: float = 0.0


class Scheduler:
    """Keeps the queues, the slots and the attempts.

    Args:
        fleet: the free places; the scheduler takes from it and gives back.
        demands: what one copy of each model takes.
        shards: all the work.
        costs: the relative cost of a cell of each model (1 where it is not named).
        max_attempts: times that a shard is run whole, and a model is started without success. Then the model is given
            up; the shard is halved until the example at fault is alone, and that one is given up.
    """

    def __init__(
        self,
        fleet: Fleet,
        demands: Mapping[str, Demand],
        shards: Iterable[Shard],
        *,
        costs: Mapping[str, float] | None = None,
        max_attempts: int = 3,
    ) -> None:
        self.fleet = fleet
        self.abandoned: list[Abandoned] = []
        self._demands = demands
        self._costs = costs or {}
        self._max_attempts = max_attempts
        self._queues: dict[str, deque[Shard]] = {model: deque() for model in demands}
        for shard in shards:
            self._queues[shard.model].append(shard)
        self._queued_cells = {model: sum(len(s.cells) for s in queue) for model, queue in self._queues.items()}
        self._replicas: dict[str, _Replica] = {}
        self._num_replicas: Counter[str] = Counter()
        self._num_started: Counter[str] = Counter()
        self._num_gains_when_full: dict[str, int] = {}
        self._attempts = Attempts(max_attempts)
        self._failures_in_a_row: Counter[str] = Counter()
        self._pace = {model: _Pace() for model in demands}
        self._no_more_copies: set[str] = set()

    @property
    def finished(self) -> bool:
        """True when no shard is queued or in flight and every slot is free."""
        return not self._replicas and not any(self._queues.values())

    def starts(self) -> list[Start]:
        """Take slots for models that have work, most work left per slot first, and return the orders."""
        orders = []
        while (order := self._next_start()) is not None:
            orders.append(order)
        return orders

    def _next_start(self) -> Start | None:
        for model in sorted(self._models_that_want_a_slot(), key=self._work_per_slot, reverse=True):
            slot = self.fleet.take(self._demands[model], self._gpus_with(model))
            if slot is not None:
                self._num_started[model] += 1
                self._num_replicas[model] += 1
                start = Start(replica=f"{model}-{self._num_started[model]}", model=model, slot=slot)
                self._replicas[start.replica] = _Replica(start, self._failures_in_a_row[model])
                return start
            self._num_gains_when_full[model] = self.fleet.num_gains
        return None

    def _gpus_with(self, model: str) -> set[tuple[str, int]]:
        slots = [replica.start.slot for replica in self._replicas.values() if replica.start.model == model]
        return {(slot.node, index) for slot in slots for index in slot.gpu_indices}

    def _models_that_want_a_slot(self) -> list[str]:
        """Models with shards that their replicas will not take at once: a further copy must be worth its loading."""
        return [
            model
            for model, queue in self._queues.items()
            if queue
            and self._num_gains_when_full.get(model) != self.fleet.num_gains
            and self._wants_a_slot(model, len(queue))
        ]

    def _wants_a_slot(self, model: str, num_queued: int) -> bool:
        num_replicas = self._num_replicas[model]
        if not num_replicas:
            return True
        if num_queued < 2 * num_replicas or model in self._no_more_copies:
            return False
        return self._is_worth_a_copy(model, num_replicas)

    def _is_worth_a_copy(self, model: str, num_replicas: int) -> bool:
        """Say whether a further copy would be there before the copies that there are have done the work.

        What is not known of a model yet is taken from the slowest of the others; where nothing is known, it would be.
        """
        load_s = self._pace[model].load_s or max((pace.load_s or 0.0 for pace in self._pace.values()), default=0.0)
        seconds_per_cost = self._seconds_per_cost(model)
        if seconds_per_cost is None:
            return True
        return self._queued_cells[model] * self._cost(model) * seconds_per_cost / num_replicas > load_s

    def _cost(self, model: str) -> float:
        return self._costs.get(model, 1.0)

    def _seconds_per_cost(self, model: str) -> float | None:
        """What a cell of cost 1 takes: as measured, else as with the slowest other model; None before any is done."""
        paces = [self._pace[model]] if self._pace[model].cost_done else list(self._pace.values())
        return max((pace.busy_s / pace.cost_done for pace in paces if pace.cost_done), default=None)

    def _work_per_slot(self, model: str) -> float:
        """Seconds that the queue would keep one more copy busy, or cells times cost before anything was measured."""
        seconds_per_cost = self._seconds_per_cost(model) or 1.0
        return self._queued_cells[model] * self._cost(model) * seconds_per_cost / (self._num_replicas[model] + 1)

    def next_shard(self, replica: str) -> Shard | None:
        """Hand `replica` its next shard, or None when there is none for it now.

        While the copies of its model outnumber the shards that are left, a replica gets no second one to keep in stock:
        the last shards go to the first free replica. A retried shard runs alone on its replica, so that a crash can be
        attributed to one shard.
        """
        entry = self._replicas[replica]
        queue = self._queues[entry.start.model]
        if not queue or (entry.in_flight and not self._may_stock(entry, queue)):
            return None
        shard = queue.popleft()
        self._queued_cells[shard.model] -= len(shard.cells)
        entry.in_flight[shard.id] = shard
        return shard

    def pass_on(self, replica: str, shard: str) -> None:
        """Take back a shard that `replica` was handed: another process computes it."""
        self._replicas[replica].in_flight.pop(shard)

    def open_shards(self) -> Iterator[Shard]:
        """Yield the shards that are queued or in flight."""
        for queue in self._queues.values():
            yield from queue
        for replica in self._replicas.values():
            yield from replica.in_flight.values()

    def add(self, shard: Shard) -> None:
        """Queue a shard that another process was thought to compute."""
        self._requeue(shard)

    def withdraw(self, shards: Collection[str]) -> None:
        """Take shards out of the queues, because other processes compute them or have done so."""
        for model, queue in self._queues.items():
            kept = [shard for shard in queue if shard.id not in shards]
            if len(kept) < len(queue):
                self._queues[model] = deque(kept)
                self._queued_cells[model] = sum(len(shard.cells) for shard in kept)

    def _may_stock(self, entry: _Replica, queue: deque[Shard]) -> bool:
        if len(queue) < self._num_replicas[entry.start.model]:
            return False
        return not any(map(self._attempts.has_failed, [queue[0].id, *entry.in_flight]))

    def is_idle(self, replica: str) -> bool:
        """True when `replica` has nothing in flight and nothing is queued for its model: its slot may swap."""
        entry = self._replicas[replica]
        return not entry.in_flight and not self._queues[entry.start.model]

    def loaded(self, replica: str, load_s: float) -> None:
        """A replica is ready, `load_s` seconds after it began to load."""
        self._pace[self._replicas[replica].start.model].load_s = load_s

    def completed(self, replica: str, shard: str, busy_s: float = 0.0) -> None:
        """A shard was committed; `busy_s` is the time that its replica worked on it, 0 where unknown."""
        entry = self._replicas[replica]
        num_cells = len(entry.in_flight.pop(shard).cells)
        if busy_s > 0:
            pace = self._pace[entry.start.model]
            pace.busy_s += busy_s
            pace.cost_done += num_cells * self._cost(entry.start.model)
        if self._failures_in_a_row[entry.start.model]:
            self._forget_failures(entry.start.model)

    def _forget_failures(self, model: str) -> None:
        self._failures_in_a_row[model] = 0
        for replica in self._replicas.values():
            if replica.start.model == model:
                replica.failures_before = 0

    def failed(self, replica: str, shard: str, reason: str) -> None:
        """A shard failed though its replica lives: queue it again, in halves after too many attempts."""
        self._count_attempt(self._replicas[replica].in_flight.pop(shard), reason)

    def retired(self, replica: str) -> None:
        """A replica's process has ended, and its memory is back: its slot is free."""
        entry = self._replicas.pop(replica)
        self._leave(entry)
        self.fleet.free(entry.start.slot)
        for shard in self._returned(entry):
            self._requeue(shard, first=True)

    def lost(self, replica: str, running: Sequence[str], reason: str, *, node_gone: bool = False) -> None:
        """A replica died. `running` are the shards it was computing (not those that waited): they count an attempt.

        Those that waited go first now. It is a failure of the model too, unless the shard failed before: then it is
        rather the shard's. With `node_gone` the replica went with its node, which is not the model's fault. Its slot
        stays taken until `retired` says that the place is free again.
        """
        entry = self._replicas[replica]
        self._leave(entry)
        is_news = not any(self._attempts.has_failed(shard) for shard in running)
        for shard in self._returned(entry):
            if shard.id in running:
                self._count_attempt(shard, reason)
            else:
                self._requeue(shard, first=True)
        if is_news and not node_gone:
            self._count_failure(entry, reason)

    def _leave(self, entry: _Replica) -> None:
        """Count a replica no longer among those that work."""
        self._num_replicas[entry.start.model] -= not entry.leaving
        entry.leaving = True

    def start_failed(self, replica: str, reason: str, *, permanent: bool, node_gone: bool = False) -> None:
        """A replica could not load its model.

        A permanent reason (no such checkpoint) gives the model up at once, unless another copy of it is there or
        coming: then its node alone may lack the checkpoint, and no further copy is started beside the others.
        """
        entry = self._replicas[replica]
        self._leave(entry)
        if node_gone:
            return
        if not permanent:
            self._count_failure(entry, reason)
        elif self._num_replicas[entry.start.model]:
            self._no_more_copies.add(entry.start.model)
        else:
            self.give_up(entry.start.model, reason)

    def give_up(self, model: str, reason: str) -> None:
        """Abandon all queued work of `model`; shards in flight may still end well."""
        num_cells = self._queued_cells[model]
        if num_cells:
            self.abandoned.append(Abandoned(model=model, shard=None, num_cells=num_cells, reason=reason))
        self._queues[model].clear()
        self._queued_cells[model] = 0

    def give_up_stranded(self) -> None:
        """Abandon the models that no slot of the fleet could ever hold, when nothing runs that could free one."""
        if self._replicas:
            return
        for model, queue in self._queues.items():
            if queue and not self.fleet.can_ever_hold(self._demands[model]):
                self.give_up(model, f"no capacity left for it ({self._demands[model].gpus:g} GPUs a copy)")

    def node_lost(self, node: str) -> None:
        """Forget the places of a node that is gone; its replicas are reported by `lost` one by one."""
        self.fleet.remove(node)

    def node_joined(self, node: Node) -> None:
        """Use the places of a new node."""
        self.fleet.add(node)

    def _count_failure(self, entry: _Replica, reason: str) -> None:
        """Count a failure of a model. Copies that die together die of one cause, and count once."""
        model = entry.start.model
        if self._failures_in_a_row[model] > entry.failures_before:
            return
        self._failures_in_a_row[model] += 1
        if self._failures_in_a_row[model] >= self._max_attempts:
            self.give_up(model, f"{self._failures_in_a_row[model]} failures in a row; the last: {reason}")

    def _count_attempt(self, shard: Shard, reason: str) -> None:
        verdict = self._attempts.failed(shard, reason)
        for part in verdict.retries:
            self._requeue(part)
        if verdict.given_up is not None:
            self.abandoned.append(
                Abandoned(model=shard.model, shard=shard.id, num_cells=len(shard.cells), reason=verdict.given_up)
            )

    @staticmethod
    def _returned(entry: _Replica) -> list[Shard]:
        """Take back what a replica holds, the last first."""
        shards = list(reversed(entry.in_flight.values()))
        entry.in_flight.clear()
        return shards

    def _requeue(self, shard: Shard, *, first: bool = False) -> None:
        queue = self._queues[shard.model]
        if first:
            queue.appendleft(shard)
        else:
            queue.append(shard)
        self._queued_cells[shard.model] += len(shard.cells)
