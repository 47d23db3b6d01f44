"""Which shards of a run this process may compute: all of them, or those that it leases in a shared run.

A shard of a shared run is leased when a replica can take it, and given back when its answers are committed or when it
is given up. So a process takes what is free, whenever it starts, and ends when nothing is left to do for anybody.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, Protocol

from moe_ray.fingerprint import fingerprint
from moe_ray.planning.cells import Cell, Shard, missing_shards
from moe_ray.store.committed import CommittedKeys
from moe_ray.store.work_leases import WorkLeases

LOOK_S = 2.0
# Many processes look less often, because each look reads the records of all.
LOOK_S_FOR_EACH_PROCESS = 0.2
MAX_LOOK_S = 15.0


class ClaimNews(NamedTuple):
    """What changed: shards that others compute or have computed, shards to queue, and cells that others committed."""

    withdrawn: frozenset[str] = frozenset()
    freed: tuple[Shard, ...] = ()
    committed: Mapping[str, int] = {}


class Claims(Protocol):
    """Decides which shards this process computes."""

    @property
    def finished(self) -> bool:
        """True when no shard is left that this process would have to wait for."""
        ...

    def take(self, shard: Shard) -> bool:
        """Say whether this process computes the shard."""
        ...

    def take_probe(self, model: str) -> bool:
        """Say whether this process measures the model's latency."""
        ...

    def committed(self, shard: Shard) -> None:
        """The shard's answers are on disk."""
        ...

    def gave_up(self, open_shards: Iterable[Shard]) -> None:
        """Work was given up; `open_shards` are left."""
        ...

    def look(self, *, is_idle: bool) -> ClaimNews:
        """Return what changed since the last call; nothing where that was a moment ago."""
        ...


class AllClaims:
    """The claims of a process that holds the run alone."""

    finished = True

    def take(self, _shard: Shard) -> bool:
        return True

    def take_probe(self, _model: str) -> bool:
        return True

    def committed(self, _shard: Shard) -> None: ...

    def gave_up(self, _open_shards: Iterable[Shard]) -> None: ...

    def look(self, *, is_idle: bool) -> ClaimNews:  # noqa: ARG002
        return ClaimNews()


class SharedClaims:
    """The claims of one of several processes that share a run.

    `pieces` maps the key of each cell to the name of its lease: the shard that it belongs to in a run without answers.
    So processes that began with different answers, and cut shards down differently, lease the same names.
    """

    def __init__(
        self, leases: WorkLeases, answers: CommittedKeys, shards: Iterable[Shard], pieces: Mapping[str, str]
    ) -> None:
        self._leases = leases
        self._answers = answers
        self._pieces = pieces
        self._missing: dict[str, dict[str, Cell]] = {}
        self._shards: dict[str, Shard] = {}
        for shard in shards:
            piece = self._piece(shard)
            self._shards[piece] = shard
            self._missing[piece] = {cell.key: cell for cell in shard.cells}
        self._mine: set[str] = set()
        self._elsewhere: set[str] = set()
        self._given_up: set[str] = set()
        self._freed: list[Shard] = []
        self._withdrawn: set[str] = set()
        self._committed: dict[str, int] = {}
        self._next_look = 0.0

    @property
    def finished(self) -> bool:
        """See `Claims.finished`. What this process gave up may still be computed elsewhere."""
        return not self._freed and all(
            piece in self._given_up and piece not in self._elsewhere for piece in self._missing
        )

    def take(self, shard: Shard) -> bool:
        """Lease the shard's piece. False where another process has it, has done it, or has done some of its cells."""
        piece = self._piece(shard)
        if piece in self._mine:
            return True
        if not self._leases.take(piece):
            self._elsewhere.add(piece)
            return False
        self._elsewhere.discard(piece)
        # Its last holder may have committed the answers after they were read here, and before it gave the lease back.
        self._refresh()
        left = self._missing.get(piece)
        if left is None:
            self._leases.release(piece)
            return False
        self._mine.add(piece)
        return len(left) == len(shard.cells)  # else what is left of it is in the queue, as a shard of its own

    def take_probe(self, model: str) -> bool:
        """Lease the probe of a model, until this process ends."""
        return self._leases.take(fingerprint(["probe", model]))

    def committed(self, shard: Shard) -> None:
        """See `Claims.committed`."""
        piece = self._piece(shard)
        keys = {cell.key for cell in shard.cells}
        self._answers.keys |= keys
        self._remove(piece, keys)
        if piece not in self._missing:
            self._mine.discard(piece)
            self._leases.release(piece)
        self._show()

    def gave_up(self, open_shards: Iterable[Shard]) -> None:
        """See `Claims.gave_up`. Others may try what was leased; they need not wait for this process."""
        left = {self._piece(shard) for shard in (*open_shards, *self._freed)}
        for piece in self._missing.keys() - left - self._elsewhere - self._given_up:
            self._given_up.add(piece)
            if piece in self._mine:
                self._mine.discard(piece)
                self._leases.give_up(piece)

    def look(self, *, is_idle: bool) -> ClaimNews:
        """See `Claims.look`. An idle process leases one of the freed shards before it loads the model for them."""
        if time.monotonic() >= self._next_look:
            self._look(is_idle=is_idle)
        news = ClaimNews(frozenset(self._withdrawn), tuple(self._freed), dict(self._committed))
        self._withdrawn.clear()
        self._freed.clear()
        self._committed.clear()
        return news

    def _look(self, *, is_idle: bool) -> None:
        self._refresh()
        seen = self._leases.look()
        failed = (seen.failed & self._missing.keys()) - self._mine - self._given_up
        elsewhere = seen.elsewhere & self._missing.keys()
        self._withdrawn |= {self._shards[piece].id for piece in failed | (elsewhere - self._elsewhere)}
        self._given_up |= failed
        freed = [piece for piece in self._elsewhere - elsewhere if piece in self._missing.keys() - self._given_up]
        self._elsewhere = set(elsewhere)
        for piece in freed:
            if not is_idle:
                self._freed.append(self._shards[piece])
            elif self.take(self._shards[piece]):
                self._freed.append(self._shards[piece])
                is_idle = False
        self._show()
        pause_s = LOOK_S_FOR_EACH_PROCESS * seen.num_members
        self._next_look = time.monotonic() + min(MAX_LOOK_S, max(LOOK_S, pause_s))

    def _refresh(self) -> None:
        """Take the answers into account that other processes committed."""
        by_piece: dict[str, set[str]] = {}
        for key in self._answers.refresh():
            if key in self._pieces:
                by_piece.setdefault(self._pieces[key], set()).add(key)
        for piece, keys in by_piece.items():
            for cell in self._remove(piece, keys):
                self._committed[cell.model] = self._committed.get(cell.model, 0) + 1

    def _remove(self, piece: str, keys: Collection[str]) -> list[Cell]:
        """Note that cells are done, and return those that were not done before."""
        left = self._missing.get(piece, {})
        removed = [left.pop(key) for key in keys if key in left]
        if removed and piece not in self._mine:
            whole = self._shards[piece]
            self._withdrawn.add(whole.id)
            for cut in missing_shards([whole], keys):
                self._shards[piece] = cut
                self._freed += [] if piece in self._elsewhere or piece in self._given_up else [cut]
        if removed and not left:
            del self._missing[piece], self._shards[piece]
        return removed

    def _show(self) -> None:
        num_left = sum(map(len, self._missing.values()))
        self._leases.member.report(len(self._pieces) - num_left, len(self._pieces))

    def _piece(self, shard: Shard) -> str:
        return self._pieces[shard.cells[0].key]
