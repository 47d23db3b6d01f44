"""How checks run: side by side, within a time limit, without the values of secrets."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from moe_ray.clusters.doctor.checks import Fault, MachineCheck, all_checks, check, check_called
from moe_ray.clusters.doctor.examine import examine
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.errors import UserError
from tests.clusters.doctor.machines import add_command, in_slurm, with_environment

LIMIT_S = 0.5


def made(name: str, probe: object) -> MachineCheck:
    return MachineCheck(id=name, severity="failure", title=name, explanation="", probe=probe, topic="limits")  # type: ignore[arg-type]


def topic(name: str) -> list[MachineCheck]:
    """The checks of one topic: the others need not end within the short limits of these tests."""
    return [each for each in all_checks() if each.topic == name]


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def never_written(path: Path) -> Iterator[Path]:
    """A pipe in the place of a file: whoever opens it waits, as for a file of a server that is gone."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield path
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


def test_a_probe_that_hangs_costs_the_limit_once_and_is_named(machine: Machine) -> None:
    with never_written(machine.root / "proc/sys/vm/overcommit_memory"):
        report = examine(replace(machine, limit_s=LIMIT_S), topic("limits"))
    assert report.hung == ("overcommit",)
    assert [finding.check for finding in report.findings] == ["overcommit"]
    assert LIMIT_S <= report.elapsed_s < 5 * LIMIT_S


def test_many_probes_that_hang_cost_the_limit_once(machine: Machine) -> None:
    over = threading.Event()

    def wait(_: Machine) -> Iterator[Fault]:
        over.wait()
        return iter(())

    checks = [made(f"hangs-{number}", wait) for number in range(20)]
    report = examine(replace(machine, limit_s=LIMIT_S), checks)
    over.set()
    assert len(report.hung) == 20
    assert report.elapsed_s < 5 * LIMIT_S


def test_a_command_that_hangs_is_killed_with_what_it_started(machine: Machine, tmp_path: Path) -> None:
    in_job = replace(in_slurm(machine), limit_s=1.0)
    add_command(machine, "scontrol", f"/bin/sleep 600 & echo $! > {tmp_path}/pid; wait")
    report = examine(in_job, topic("slurm"))
    assert [(one.check, one.what) for one in report.findings] == [
        ("slurm-controller", "scontrol does not answer in time")
    ]
    assert has_ended(int((tmp_path / "pid").read_text()))
    assert report.hung == ()


def test_a_probe_that_breaks_does_not_hide_the_others(machine: Machine) -> None:
    def breaks(_: Machine) -> Iterator[Fault]:
        raise RuntimeError("unforeseen")

    def finds(_: Machine) -> Iterator[Fault]:
        yield Fault("wrong", "seen", "true")

    report = examine(machine, [made("breaks", breaks), made("finds", finds)])
    assert [(one.check, one.severity, one.what) for one in report.findings] == [
        ("finds", "failure", "wrong"),
        ("breaks", "warning", "this could not be checked"),
    ]


def test_a_slow_check_is_named_with_its_time(machine: Machine) -> None:
    def slow(_: Machine) -> Iterator[Fault]:
        time.sleep(1.05)
        return iter(())

    assert list(examine(machine, [made("slow", slow)]).slow_s) == ["slow"]


def test_values_of_secrets_are_not_printed_and_the_home_is_short(machine: Machine) -> None:
    def tells(seen: Machine) -> Iterator[Fault]:
        yield Fault(f"{seen.environment['MY_API_KEY']}", f"{seen.home}/x has hunter2!", f"rm {seen.home}/x")

    secret = with_environment(machine, MY_API_KEY="sk-0123456789", DB_PASSWORD="hunter2!")
    (finding,) = examine(secret, [made("tells", tells)]).findings
    assert (finding.what, finding.evidence, finding.command) == ("***", "~/x has ***", "rm ~/x")


def test_no_planted_secret_is_in_any_finding(machine: Machine) -> None:
    spoilt = with_environment(
        machine,
        RAY_AUTH_TOKEN="0123456789abcdef",
        http_proxy="http://user:hidden-password@proxy:3128",
        RAY_ADDRESS="http://127.0.0.1:1",
    )
    shown = examine(spoilt).model_dump_json()
    assert "0123456789abcdef" not in shown
    assert "hidden-password" not in shown


def test_two_checks_cannot_have_one_id() -> None:
    all_checks()
    with pytest.raises(ValueError, match="two checks are called open-files"):
        check("open-files", "warning")(lambda _: iter(()))


def test_an_unknown_check_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no check is called 'open-file'") as raised:
        check_called("open-file")
    assert raised.value.remedy is not None
    assert raised.value.remedy.startswith("did you mean open-files?")


def test_every_check_explains_itself() -> None:
    for each in all_checks():
        assert each.title.endswith(".")
        assert len(each.title) < 100
        assert len(each.explanation) > 20, each.id


def test_a_driver_that_hangs_is_one_finding_of_one_check(machine: Machine) -> None:
    over = threading.Event()

    def hangs() -> tuple[()]:
        over.wait()
        return ()

    report = examine(replace(machine, limit_s=LIMIT_S, read_gpus=hangs), topic("gpus"))
    over.set()
    assert [(one.check, one.what) for one in report.findings] == [
        ("gpu-driver", "the NVIDIA driver does not answer in time")
    ]
    assert report.elapsed_s < 5 * LIMIT_S
