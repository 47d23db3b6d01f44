"""The Python interface: what the commands of `moe-ray` do, as functions. `import moe_ray` offers all of them.

Functions open paths and call the pipelines in `moe_ray.runs` and `moe_ray.moe`; torch, transformers and Ray load when a
function needs them. All raise `UserError`, with its place and a remedy, for what a user can fix, and `RunFailedError`
for what broke on the way.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_ray.comparison.records import Summary
from moe_ray.comparison.runs import RunComparison, SystemComparison
from moe_ray.config import load
from moe_ray.config.load import LoadedExperiment
from moe_ray.errors import ConfigError
from moe_ray.execution.gpus import fleet_of_this_machine
from moe_ray.execution.observer import LoggingObserver, RunObserver
from moe_ray.planning.fleet import simulated_fleet
from moe_ray.runs import evaluate as pipeline
from moe_ray.runs.evaluate import RunPlan
from moe_ray.runs.stored import Run
from moe_ray.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from moe_ray.architectures.gated_mixture import MixtureMode
    from moe_ray.moe.btx.finetune import FinetuneRecord
    from moe_ray.moe.btx.pretrain import PretrainRecord
    from moe_ray.moe.certificate import Certificate
    from moe_ray.moe.merge.gate import TrainedGate
    from moe_ray.moe.upcycle.request import UpcycleRequest
    from moe_ray.moe.verify import Finding
    from moe_ray.progress import TrainingProgress

AnyPath = Path | str
ExperimentSource = AnyPath | Mapping[str, Any] | LoadedExperiment
RunSource = AnyPath | Run


def load_experiment(source: ExperimentSource, overrides: Sequence[str] = ()) -> LoadedExperiment:
    """Read and check an experiment: a file, or a mapping of what a file would hold. Touches no data and no model.

    `overrides` are `KEY=VALUE` texts, as `--set` takes them. Relative paths are relative to the file's folder; those
    of a mapping or an override to the current folder.
    """
    if isinstance(source, LoadedExperiment):
        if overrides:
            raise ConfigError("overrides of an experiment that is loaded", remedy="give them to load_experiment")
        return source
    if isinstance(source, Mapping):
        return load.experiment_of(source, overrides)
    return load.load_experiment(Path(source).expanduser(), overrides)


def plan(
    experiment: ExperimentSource,
    *,
    overrides: Sequence[str] = (),
    hardware: str | None = None,
    only: str | None = None,
    reuse: Sequence[RunSource] = (),
) -> RunPlan:
    """Say what `evaluate` would compute and where, and refuse what it would refuse. Starts nothing.

    `hardware`, such as "8x80GiB + 4x24GiB", plans for GPUs that are not here; `only` is "baseline" or "experts".
    """
    loaded = load_experiment(experiment, overrides)
    fleet = fleet_of_this_machine(loaded.config.runtime) if hardware is None else simulated_fleet(hardware)
    sources = [_directory(run) for run in reuse]
    return pipeline.plan(loaded, fleet, only=only, is_here=hardware is None, reuse=sources)


def evaluate(
    experiment: ExperimentSource,
    *,
    overrides: Sequence[str] = (),
    only: str | None = None,
    reuse: Sequence[RunSource] = (),
    observer: RunObserver | None = None,
    shared: bool = False,
) -> Run:
    """Run an experiment, or resume it, write its report, and return its results.

    With `shared`, other processes may do so at the same time, and each computes what no other live one does.
    Answers of the runs in `reuse` to the same cells are copied instead of computed. Without an `observer`, progress
    goes to the logger "moe_ray". Work that was given up stands in `summary.run.given_up`; then `summary.run.complete`
    is False, and the same call computes what is missing.
    """
    loaded = load_experiment(experiment, overrides)
    sources = [_directory(run) for run in reuse]
    return Run(pipeline.evaluate(loaded, _observer(observer), only=only, reuse=sources, shared=shared).run.path)


def open_run(path: AnyPath) -> Run:
    """Open a run directory to read its results. Raises `RunDirectoryError` where no run is."""
    run = Run(path)
    run.manifest  # noqa: B018 - says so where there is none
    return run


def score(
    run: RunSource,
    *,
    experiment: ExperimentSource | None = None,
    trust: bool = False,
    allow_weak_sandbox: bool = False,
) -> Run:
    """Grade the answers of a run again and write its report. Needs no model, no data set and no Ray.

    With an `experiment`, graders and sandbox limits come from it. `trust` runs graders of the user's own that the run
    directory itself names; `allow_weak_sandbox` runs generated programs without a protection that is missing here.
    """
    directory = _directory(run)
    loaded = None if experiment is None else load_experiment(experiment)
    pipeline.score(
        directory,
        experiment=loaded,
        trust=trust,
        allow_weak_sandbox=allow_weak_sandbox,
        on_notice=logging.getLogger("moe_ray").warning,
    )
    pipeline.report(directory)
    return Run(directory.path)


def write_report(run: RunSource) -> Summary:
    """Write summary.json and report.html of a scored run, and return the summary."""
    return pipeline.report(_directory(run))


def compare(first: RunSource, second: RunSource) -> RunComparison:
    """Compare two scored runs on the examples of both: changed settings, differences, tests. Writes nothing."""
    return pipeline.compare(_directory(first), _directory(second))


def compare_systems(run: RunSource, system_a: str, system_b: str) -> SystemComparison:
    """Compare two models or systems of one scored run, example by example. Writes nothing."""
    return pipeline.compare_systems(_directory(run), system_a, system_b)


def upcycle(
    model: AnyPath, out: AnyPath, request: "UpcycleRequest", *, on_progress: Callable[[str], object] = lambda _: None
) -> "Certificate":
    """Make a mixture of experts of a dense checkpoint at `out`, test it, and return its certificate."""
    from moe_ray.moe.upcycle.build import build_upcycle

    return build_upcycle(Path(model), Path(out), request, on_progress=on_progress)


def train_gate(
    config: AnyPath, out: AnyPath, *, on_epoch: "Callable[[TrainingProgress], None]" = lambda _: None
) -> "TrainedGate":
    """Train the gate that the file `config` describes, save it to `out`, and return it with its test results."""
    from moe_ray.runs.mixtures import train_gate_of_file

    return train_gate_of_file(Path(config), Path(out), on_epoch=on_epoch)


def merge(
    models: Mapping[str, AnyPath],
    gate: AnyPath,
    out: AnyPath,
    *,
    mode: "MixtureMode" = "weighted_sum",
    take_first: bool = False,
    check: bool = True,
) -> "Certificate":
    """Merge fine-tunes of one model, named as the gate's experts, behind that gate; return the certificate.

    Tensors outside the feed-forward networks must be equal in all models, unless `take_first`. With `check` each
    expert alone is compared with its source.
    """
    from moe_ray.moe.merge.build import build_merge
    from moe_ray.moe.merge.plan import plan_merge

    named = {name: Path(path) for name, path in models.items()}
    return build_merge(plan_merge(named, Path(gate), mode=mode, take_first=take_first), Path(out), check=check)


def verify(mixture: AnyPath, moved: Mapping[str, AnyPath] | None = None) -> "list[Finding]":
    """Check what the certificate of a mixture says, one finding for each statement.

    `moved` says where sources are now, by their names in the certificate.
    """
    from moe_ray.moe.verify import verify as findings

    return list(findings(Path(mixture), {name: Path(path) for name, path in (moved or {}).items()}))


def pretrain(config: AnyPath, out: AnyPath, *, observer: RunObserver | None = None) -> "PretrainRecord":
    """Train the experts that the file `config` describes, as Ray tasks, and mix them in `out`; resumes."""
    from moe_ray.runs.mixtures import pretrain_on_ray

    shown = _observer(observer)
    return pretrain_on_ray(
        Path(config),
        Path(out),
        on_progress=shown.stage,
        on_notice=shown.notice,
        on_step=partial(_show_step, shown),
    )


def finetune(
    config: AnyPath, mixture: AnyPath, out: AnyPath, *, observer: RunObserver | None = None
) -> "FinetuneRecord":
    """Train the gates of a mixture that `pretrain` made on the texts of the file `config`; resumes."""
    from moe_ray.runs.mixtures import finetune_on_ray

    shown = _observer(observer)
    return finetune_on_ray(
        Path(config),
        Path(mixture),
        Path(out),
        on_notice=shown.notice,
        on_step=partial(_show_step, shown),
    )


def _show_step(observer: RunObserver, progress: "TrainingProgress") -> None:
    observer.training(progress.step, progress.num_steps, f"{progress.name}: loss {progress.loss:.4g}")


def _directory(run: RunSource) -> RunDirectory:
    return RunDirectory(run.path if isinstance(run, Run) else Path(run).expanduser())


def _observer(observer: RunObserver | None) -> RunObserver:
    return observer or LoggingObserver(logging.getLogger("moe_ray"))
