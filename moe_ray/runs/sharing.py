"""What several processes that share a run divide, and how much of it is done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moe_ray.fingerprint import fingerprint
from moe_ray.planning.plan import whole_shards
from moe_ray.planning.scheduler import Abandoned
from moe_ray.runs.work import Prepared
from moe_ray.store.committed import CommittedKeys
from moe_ray.store.run_directory import RunDirectory
from moe_ray.store.work_leases import WorkLeases

if TYPE_CHECKING:
    from moe_ray.execution.claims import SharedClaims


class Progress:
    """How much of a run is done: by this process, or by all that share the run."""

    def __init__(self, run: RunDirectory, *, is_shared: bool) -> None:
        self._run = run
        self.is_shared = is_shared
        self.answers = CommittedKeys(run)

    def news(self) -> set[str]:
        """Return the keys of cells that were committed since the last call; none in a run that is not shared."""
        return self.answers.refresh() if self.is_shared else set()

    def num_done(self, prepared: Prepared) -> int:
        """Return the number of wanted cells that are done."""
        if not self.is_shared:
            return len(prepared.work.done) + self._run.num_committed
        self.answers.refresh()
        return sum(key in self.answers.keys for key in prepared.work.computed_by)

    def still_missing(self, prepared: Prepared, abandoned: Sequence[Abandoned]) -> list[Abandoned]:
        """Return what of this process's `abandoned` work no other process did either."""
        if not self.is_shared:
            return list(abandoned)
        computed_by = prepared.work.computed_by
        models = {model for key, model in computed_by.items() if key not in self.answers.keys}
        return [entry for entry in abandoned if entry.model in models]


def claims_of(prepared: Prepared, leases: WorkLeases, answers: CommittedKeys) -> "SharedClaims":
    """Return the claims to the missing shards. Raises `RunDirectoryError` where other processes run other settings."""
    from moe_ray.execution.claims import SharedClaims

    shards = whole_shards(prepared.inputs.config, prepared.work, len(prepared.cells))
    leases.member.divide(fingerprint(sorted(shard.id for shard in shards)))
    pieces = {cell.key: shard.id for shard in shards for cell in shard.cells}
    return SharedClaims(leases, answers, prepared.work.shards, pieces)
