"""Leases on parts of a shared run: each part has one live process that works on it.

RUN/.leases/members/OWNER.json   a process (`moe_ray.store.members`)
RUN/.leases/work/NAME.NUMBER     the process that took the part NAME; the highest number counts
RUN/.leases/work/NAME.failed.ID  a process that gave the part up

A lease is created exclusively (O_EXCL) and never changed. A part of a dead process is taken over with the next number,
so that one of several that try it succeeds, and a process that only seemed to be dead removes no lease of another. What
such a process computes twice has the same bytes.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from moe_ray.store.holder import Holder
from moe_ray.store.inside import files_inside, inside
from moe_ray.store.lease import create_lease, read_holder
from moe_ray.store.members import FOLDER, MEMBERS, WORK, Member

POLL_S = 1.0
FAILED = "failed"
# A part that so many processes gave up is at fault itself, not their nodes.
MAX_FAILED = 2


class LeaseView(NamedTuple):
    """What live processes other than this one hold, and what so many gave up that no further one tries it."""

    elsewhere: frozenset[str]
    failed: frozenset[str]
    num_members: int


class WorkLeases:
    """The leases of one run as one member takes, releases and sees them. Names must be names of files without dots."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self._folder = inside(member.run.path, FOLDER, WORK)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._mine: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Take a part, and say whether it is this process's now: it was free, or of a dead process."""
        if name in self._mine:
            return True
        taken = self._list().get(name, _Leased()).numbers
        if any(not self._is_dead(name, number) for number in taken):
            return False
        mine = max(taken, default=-1) + 1
        path = self._folder / f"{name}.{mine}"
        if not create_lease(path, self.member.holder):
            return False
        # The list may have been old: another process may have taken, released and taken the part since.
        since = self._list().get(name, _Leased()).numbers - {mine}
        if any(not self._is_dead(name, number) for number in since):
            path.unlink(missing_ok=True)
            return False
        self._mine[name] = mine
        return True

    def release(self, name: str) -> None:
        """Give a part back, and remove the leases that dead processes had on it."""
        number = self._mine.pop(name, -1)
        for earlier in range(number + 1):
            (self._folder / f"{name}.{earlier}").unlink(missing_ok=True)

    def release_all(self) -> None:
        """Give everything back."""
        for name in list(self._mine):
            self.release(name)

    def give_up(self, name: str) -> None:
        """Give a part back that this process cannot do."""
        create_lease(self._folder / f"{name}.{FAILED}.{self.member.holder.owner}", self.member.holder)
        self.release(name)

    def look(self) -> LeaseView:
        """Return what other processes hold and what was given up."""
        listed = self._list()
        elsewhere = {
            name
            for name, leased in listed.items()
            if name not in self._mine and any(not self._is_dead(name, number) for number in leased.numbers)
        }
        failed = {name for name, leased in listed.items() if leased.num_failed >= MAX_FAILED}
        num_members = len(files_inside(self.member.run.path, f"{FOLDER}/{MEMBERS}", ".json"))
        return LeaseView(frozenset(elsewhere), frozenset(failed), num_members)

    @contextmanager
    def alone(self, name: str, on_notice: Callable[[str], object]) -> Iterator[None]:
        """Hold a part within this context. Waits while another process holds it, and takes it over from a dead one."""
        is_announced = False
        while not self.take(name):
            if not is_announced:
                on_notice(f"Waiting for another process, which does the {name} of {self.member.run.path}.")
                is_announced = True
            time.sleep(POLL_S)
        try:
            yield
        finally:
            self.release(name)

    def _is_dead(self, name: str, number: int) -> bool:
        """Say whether the holder of a lease is dead, also one that has not written its name yet."""
        holder = read_holder(self._folder / f"{name}.{number}")
        return self.member.watch.is_dead(holder or Holder(f"{name}.{number}", "", 0))

    def _list(self) -> dict[str, "_Leased"]:
        found: defaultdict[str, _Leased] = defaultdict(_Leased)
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries]
        for entry in names:
            name, _, rest = entry.partition(".")
            if rest.isdecimal():
                found[name].numbers.add(int(rest))
            elif rest.startswith(f"{FAILED}."):
                found[name].num_failed += 1
        return dict(found)


@dataclass(slots=True)
class _Leased:
    """The numbers of a part's leases, and how many processes gave it up."""

    numbers: set[int] = field(default_factory=set)
    num_failed: int = 0
