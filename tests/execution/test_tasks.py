"""Functions as Ray tasks: results in order, events as they come, errors as they were, nothing left behind."""

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import OutOfMemoryError

from moe_ray.config.schema import RuntimeConfig
from moe_ray.errors import CapacityError, TaskLostError, UserError
from moe_ray.execution import tasks
from moe_ray.execution.tasks import Retries, TaskSize, map_tasks, stream_task, stream_tasks, task_size

pytestmark = pytest.mark.usefixtures("local_ray")

ONE_CPU = TaskSize(num_cpus=1, num_gpus=0)


def _ends(pid: int) -> bool:
    """Whether the process is gone within a patient time."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def test_each_item_has_its_result_as_it_is_there() -> None:
    def square(number: int) -> int:
        return number * number

    assert sorted(map_tasks(square, range(4), num_cpus=1)) == [0, 1, 4, 9]


def test_an_error_in_a_task_is_raised_with_its_own_type() -> None:
    def fail(number: int) -> int:
        raise UserError(f"item {number} is wrong", remedy="fix it")

    with pytest.raises(UserError, match="item 1 is wrong"):
        list(map_tasks(fail, [1], num_cpus=1))


def test_what_a_task_yields_comes_before_it_ends() -> None:
    def slowly(number: int) -> Iterator[tuple[int, float]]:
        for at in range(number):
            yield at, time.time()
            time.sleep(0.3)

    received = [(at, time.time() - said) for (at, said) in stream_task(slowly, 3, ONE_CPU)]
    assert [at for at, _ in received] == [0, 1, 2]
    first_said_before_the_end_s = 0.9
    assert received[0][1] < first_said_before_the_end_s


def test_an_error_of_a_generator_is_raised_after_what_it_yielded_with_all_its_parts() -> None:
    def fail(number: int) -> Iterator[int]:
        yield number
        raise UserError("it is wrong", where="router.kind", remedy="fix it")

    stream = stream_task(fail, 7, ONE_CPU)
    assert next(stream) == 7
    with pytest.raises(UserError) as caught:
        next(stream)
    assert type(caught.value) is UserError
    assert (caught.value.what, caught.value.where, caught.value.remedy) == ("it is wrong", "router.kind", "fix it")


def test_a_task_whose_stream_is_dropped_is_ended() -> None:
    def forever(_: int) -> Iterator[int]:
        yield os.getpid()
        while True:
            time.sleep(0.05)

    stream = stream_task(forever, 0, ONE_CPU)
    pid = next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert _ends(pid)


def test_a_worker_that_dies_is_an_error_and_not_a_wait() -> None:
    def die(_: int) -> Iterator[int]:
        yield 1
        os._exit(3)

    stream = stream_task(die, 0, ONE_CPU)
    with pytest.raises(TaskLostError, match="a task lost its worker in 1 attempt; the last: WorkerCrashedError"):
        list(stream)


def test_a_task_that_failed_takes_no_later_task_with_it() -> None:
    def fail(_: int) -> Iterator[int]:
        yield 1
        raise UserError("it is wrong", remedy="fix it")

    def count(number: int) -> Iterator[int]:
        for at in range(number):  # noqa: UP028 - Ray's own reading of generators knows no `yield from` of an iterator
            yield at

    for _ in range(30):
        with pytest.raises(UserError):
            list(stream_task(fail, 0, ONE_CPU))
        assert list(stream_task(count, 3, ONE_CPU)) == [0, 1, 2]


def _meet(folder: str, own: str, other: str) -> None:
    """Return once the other task has come here too; raise when it does not in a patient time."""
    Path(folder, own).touch()
    deadline = time.monotonic() + 30
    while not Path(folder, other).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{other} never ran beside {own}")
        time.sleep(0.02)


def test_several_tasks_run_at_once_and_all_that_they_yield_comes(tmp_path: Path) -> None:
    meet, folder = _meet, str(tmp_path)

    def spell(words: tuple[str, str]) -> Iterator[tuple[str, str]]:
        meet(folder, *words)
        for letter in words[0]:
            yield words[0], letter

    received = list(stream_tasks(spell, [("one", "four"), ("four", "one")], ONE_CPU))
    for word in ("one", "four"):
        assert "".join(letter for name, letter in received if name == word) == word


def _dying(num_deaths: int, how: Callable[[], object]) -> Callable[[str], Iterator[str]]:
    """A task that ends with `how` until its folder shows `num_deaths` attempts before it."""

    def task(folder: str) -> Iterator[str]:
        num_before = len(list(Path(folder).iterdir()))
        Path(folder, str(num_before)).touch()
        if num_before < num_deaths:
            how()
        yield "done"

    return task


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_task_whose_worker_dies_is_run_again_as_often_as_is_asked(tmp_path: Path, max_attempts: int) -> None:
    notices: list[str] = []
    retries = Retries(max_attempts=max_attempts, name=lambda folder: Path(folder).name, on_retry=notices.append)
    stream = stream_tasks(_dying(2, lambda: os._exit(3)), [str(tmp_path)], ONE_CPU, retries)
    if max_attempts < 3:
        with pytest.raises(TaskLostError, match=rf"{tmp_path.name} lost its worker in {max_attempts} attempt"):
            list(stream)
    else:
        assert list(stream) == ["done"]
    assert len(list(tmp_path.iterdir())) == max_attempts
    assert [f"attempt {number} of {max_attempts}" in notice for number, notice in enumerate(notices, 2)] == [True] * (
        max_attempts - 1
    )


def test_a_task_that_memory_ran_out_for_stops_after_its_last_attempt_with_the_reason(tmp_path: Path) -> None:
    """Ray's own retries of such tasks have no bound."""

    def out_of_memory() -> None:
        error: Any = OutOfMemoryError
        raise error("2.1 GB of 2.0 GB were in use\n  and more lines")

    stream = stream_tasks(_dying(99, out_of_memory), [str(tmp_path)], ONE_CPU, Retries(max_attempts=2))
    with pytest.raises(TaskLostError, match=r"in 2 attempts; the last: OutOfMemoryError: 2.1 GB of 2.0 GB were in use"):
        list(stream)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_mapped_function_whose_worker_dies_is_run_again(tmp_path: Path) -> None:
    task = _dying(1, lambda: os._exit(3))

    def function(folder: str) -> str:
        return next(task(folder))

    assert list(map_tasks(function, [str(tmp_path)], num_cpus=1, retries=Retries(max_attempts=2))) == ["done"]


def test_a_task_that_no_node_could_run_any_more_is_an_error_and_not_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "STRANDED_S", 0.0)
    monkeypatch.setattr(tasks, "NODE_POLL_S", 0.1)
    with pytest.raises(TaskLostError, match="no node is left that could run a task of 99 CPUs and 0 GPUs"):
        list(stream_tasks(_dying(0, list), [str(tmp_path)], TaskSize(num_cpus=99, num_gpus=0)))


def test_when_one_task_fails_the_others_are_ended(tmp_path: Path) -> None:
    pid_file = str(tmp_path / "pid")

    def work(is_endless: bool) -> Iterator[int]:
        if is_endless:
            Path(pid_file).write_text(str(os.getpid()))
            while True:
                time.sleep(0.05)
        deadline = time.monotonic() + 30
        while not Path(pid_file).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield 1
        raise UserError("it is wrong", remedy="fix it")

    with pytest.raises(UserError):
        list(stream_tasks(work, [True, False], ONE_CPU))
    assert _ends(int(Path(pid_file).read_text()))


def test_a_task_takes_no_more_cores_than_the_largest_node_has() -> None:
    assert task_size(RuntimeConfig(cpu_threads=2), "auto") == TaskSize(num_cpus=2, num_gpus=0)
    assert task_size(RuntimeConfig(cpu_threads=64), "auto") == TaskSize(num_cpus=4, num_gpus=0)


@pytest.mark.parametrize(
    ("gpus", "wanted", "size"),
    [
        ("auto", "auto", TaskSize(num_cpus=1, num_gpus=1)),
        ("auto", 0.5, TaskSize(num_cpus=1, num_gpus=0.5)),
        (1, 0.5, TaskSize(num_cpus=1, num_gpus=0.5, max_running=2)),
        (0, "auto", TaskSize(num_cpus=2, num_gpus=0)),
    ],
)
def test_tasks_take_no_more_gpus_than_the_run_may(
    monkeypatch: pytest.MonkeyPatch, gpus: Any, wanted: Any, size: TaskSize
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "n", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}}])
    assert task_size(RuntimeConfig(cpu_threads=2, gpus=gpus), wanted) == size


@pytest.mark.parametrize(("gpus", "wanted"), [("auto", 0.5), (0, 1)])
def test_a_task_that_wants_more_gpus_than_there_may_be_is_refused(gpus: Any, wanted: float) -> None:
    with pytest.raises(CapacityError, match="can never start"):
        task_size(RuntimeConfig(gpus=gpus), wanted)


def test_no_more_tasks_run_at_once_than_the_size_says() -> None:
    def span(_: int) -> Iterator[tuple[float, float]]:
        start = time.time()
        time.sleep(0.3)
        yield start, time.time()

    spans = sorted(stream_tasks(span, range(3), TaskSize(num_cpus=0.5, num_gpus=0, max_running=1)))
    assert all(ended <= start for (_, ended), (start, _) in pairwise(spans))
