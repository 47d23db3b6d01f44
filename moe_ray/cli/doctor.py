"""`moe-ray doctor`: what would keep a run from working here, or on the nodes of a cluster."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from moe_ray.characters import one_line
from moe_ray.cli.terminal import Terminal, error_console, output_console
from moe_ray.clusters.doctor.checks import Severity, all_checks, check_called
from moe_ray.clusters.doctor.examine import examine
from moe_ray.clusters.doctor.machine import DEFAULT_LIMIT_S, Machine
from moe_ray.clusters.doctor.nodes import examine_nodes
from moe_ray.clusters.doctor.report import DoctorFinding, DoctorReport
from moe_ray.clusters.doctor.request import DoctorRequest, examine_here, loaded
from moe_ray.config.load import LoadedExperiment, override
from moe_ray.errors import RunFailedError, UserError
from moe_ray.formatting import plural

STYLES: dict[Severity, tuple[str, str]] = {"failure": ("FAIL", "bold red"), "warning": ("warn", "bold yellow")}
# Of the checks that a failing run makes: it ends soon whatever hangs.
ADVICE_LIMIT_S = 3.0
MAX_NAMES = 8


def show_doctor(
    file: Path | None,
    overrides: Sequence[str] = (),
    results_dir: Path | None = None,
    *,
    nodes: bool = False,
    as_json: bool = False,
    strict: bool = False,
    limit_s: float = DEFAULT_LIMIT_S,
) -> int:
    """Examine this machine, or all `nodes`, and print what was found. Returns the exit code.

    Raises `UserError` when there is nothing to look at: no such file, no nodes.
    """
    begin = time.monotonic()
    request = _request(file, overrides, results_dir, limit_s)
    if nodes:
        experiment, _ = loaded(request.file, request.overrides)
        reports = examine_nodes(request, experiment)
    else:
        reports = [examine_here(request)]
    report = DoctorReport.of(reports, time.monotonic() - begin)
    console = output_console(soft_wrap=True)
    if as_json:
        console.print(report.model_dump_json(indent=2))
    else:
        _show(console, report)
    return report.exit_code(strict=strict)


def explain(name: str, *, as_json: bool) -> None:
    """Print what a check finds and why it matters; `all` lists the checks. Raises `UserError` for an unknown one."""
    console = output_console(soft_wrap=True)
    found = all_checks() if name == "all" else (check_called(name),)
    if as_json:
        entries = [
            {"id": each.id, "severity": each.severity, "title": each.title, "explanation": each.explanation}
            for each in found
        ]
        console.print(json.dumps(entries, indent=2))
    elif name == "all":
        width = max(len(each.id) for each in found)
        for each in found:
            console.print(f"{each.id:{width}}  {each.severity}  {each.title}")
    else:
        console.print(f"{name} ({found[0].severity}): {found[0].title}\n\n{found[0].explanation}")


def advise(experiment: LoadedExperiment, error: UserError | RunFailedError, environment: Mapping[str, str]) -> None:
    """Print what the doctor finds, after a run of `experiment` failed with `error`, where that adds something.

    `environment` is that of the command before the run, which adds Ray's token and more to it. Warnings are left out
    after a mistake of the user, which says itself what to do.
    """
    report = examine(Machine.here(experiment, environment=environment, limit_s=ADVICE_LIMIT_S))
    wanted = [one for one in report.findings if one.severity == "failure" or isinstance(error, RunFailedError)]
    said = str(error)
    new = [one for one in wanted if one.what not in said and one.evidence not in said]
    if not new:
        return
    console = error_console()
    console.print(f"moe-ray doctor {experiment.path} would have said:")
    for finding in new:
        _show_finding(console, finding)


def _request(file: Path | None, overrides: Sequence[str], results_dir: Path | None, limit_s: float) -> DoctorRequest:
    """Nodes may have another working directory: paths are absolute."""
    more = [override(("output", "results_dir"), str(results_dir.absolute()))] if results_dir is not None else []
    request = DoctorRequest(
        file=None if file is None else file.absolute(), overrides=(*overrides, *more), limit_s=limit_s
    )
    experiment, wrong = loaded(request.file, request.overrides)
    if wrong is not None and file is not None and not file.is_file():
        raise wrong
    if experiment is None or results_dir is not None:
        return request
    folder = experiment.config.output.results_dir.expanduser().absolute()
    return request.model_copy(
        update={"overrides": (*request.overrides, override(("output", "results_dir"), str(folder)))}
    )


def _show(console: Terminal, report: DoctorReport) -> None:
    num_nodes = sum(len(group.nodes) for group in report.groups)
    of_nodes = f" on {plural(num_nodes, 'node')}" if num_nodes > 1 else ""
    for group in report.groups:
        if num_nodes > 1:
            state = f"{plural(len(group.findings), 'finding')}:" if group.findings else "ok"
            console.print(f"{_names(group.nodes)}: {state}")
        for finding in group.findings:
            _show_finding(console, finding)
    for name, seconds in sorted(report.slow_s.items(), key=lambda item: -item[1]):
        console.print(f"slow: {name} took {seconds:.1f} s")
    if report.failing_nodes and num_nodes > 1:
        console.print(f"failing nodes: --exclude={','.join(report.failing_nodes)}")
    counts = {kind: sum(one.severity == kind for one in report.findings) for kind in STYLES}
    if not report.findings:
        console.print(f"ready: {plural(report.num_checks, 'check')}{of_nodes}, {report.elapsed_s:.1f} s")
        return
    told = ", ".join(plural(number, kind) for kind, number in counts.items() if number)
    console.print(f"{told}; moe-ray doctor --explain ID says why it matters")


def _show_finding(console: Terminal, finding: DoctorFinding) -> None:
    mark, style = STYLES[finding.severity]
    console.print(mark, style=style, end="  ")
    console.print(f"{finding.check}: {one_line(finding.what)}")
    for line in finding.evidence.splitlines():
        console.print(f"      {one_line(line)}")
    console.print(f"      $ {one_line(finding.command)}")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
