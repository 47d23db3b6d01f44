"""A run directory of unknown origin, read back to grade its answers: what it may ask for, and what it may not."""

from collections.abc import Iterable, Mapping, Sequence

from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import ExperimentConfig, SandboxConfig
from moe_ray.domains.loading import importable, make_task
from moe_ray.errors import ConfigError, RunDirectoryError
from moe_ray.runs.grading import StoredRun, stored_keys
from moe_ray.scoring.registry import is_own_code
from moe_ray.store.records import Manifest
from moe_ray.store.run_directory import RunDirectory

# What a program may use where nothing but the run directory says so.
MAX_MEMORY_MIB = 8192


def load_run(
    run: RunDirectory,
    *,
    experiment: LoadedExperiment | None = None,
    trust: bool = False,
    allow_weak_sandbox: bool = False,
) -> StoredRun:
    """Read a run directory back, to grade its answers.

    A run directory is data and may be somebody else's. Code of one's own, and the limits of the sandbox, come from the
    user's `experiment`, or from the directory when the user trusts it; `allow_weak` never comes from the directory.

    Raises `RunDirectoryError` when there is no run, or when it names code without being trusted.
    """
    manifest, config = run.manifest(), load_experiment(run.config_path).config
    written = config
    sandbox = config.runtime.sandbox if experiment is None else experiment.config.runtime.sandbox
    names = _stored_names(run, manifest, config)
    base_dir = run.path
    if experiment is not None:
        config = _with_graders_of(experiment.config, config)
        names = _names_of(experiment, config.domains)
        base_dir = experiment.base_dir
    elif not trust:
        _refuse_own_code(run, names)
        sandbox = _tamed(run, sandbox)
    allow_weak = allow_weak_sandbox or (experiment is not None and sandbox.allow_weak)
    runtime = config.runtime.model_copy(update={"sandbox": sandbox.model_copy(update={"allow_weak": allow_weak})})
    config = config.model_copy(update={"runtime": runtime})
    routes = run.routes() if config.router else None
    return StoredRun(
        run=run,
        config=config,
        written=written if experiment is None else config,
        manifest=manifest,
        grader_names=names,
        base_dir=base_dir,
        routes=routes,
        wanted=stored_keys(config, manifest, routes),
    )


def _stored_names(run: RunDirectory, manifest: Manifest, config: ExperimentConfig) -> dict[str, Sequence[str]]:
    """The graders that the manifest names for each domain of the config."""
    names = {domain: manifest.domains.get(domain, {}).get("graders") for domain in config.domains}
    for domain, graders in names.items():
        if not isinstance(graders, list) or not all(isinstance(name, str) for name in graders):
            raise RunDirectoryError(
                f"names no graders of domain {domain}, which config.yaml has",
                where=str(run.manifest_path),
                remedy="restore both files; moe-ray evaluate writes them again",
            )
    return {domain: graders or () for domain, graders in names.items()}


def _with_graders_of(experiment: ExperimentConfig, config: ExperimentConfig) -> ExperimentConfig:
    """The stored config, with the graders that the user's experiment names for its domains."""
    lacking = [name for name in config.domains if name not in experiment.domains]
    if lacking:
        raise ConfigError(
            f"the experiment has no domain {', '.join(lacking)}, which the run has",
            where="domains",
            remedy="give the experiment file that the run was made from",
        )
    domains = {
        name: domain.model_copy(update={"graders": experiment.domains[name].graders})
        for name, domain in config.domains.items()
    }
    return config.model_copy(update={"domains": domains})


def _names_of(experiment: LoadedExperiment, domains: Iterable[str]) -> dict[str, Sequence[str]]:
    """The graders that the experiment names, or those of the domain's task."""
    found: dict[str, Sequence[str]] = {}
    with importable(experiment.base_dir):
        for name in domains:
            domain = experiment.config.domains[name]
            named = domain.grader_names
            found[name] = make_task(name, domain, experiment.base_dir).default_graders if named is None else named
    return found


def _refuse_own_code(run: RunDirectory, names: Mapping[str, Sequence[str]]) -> None:
    own = [f"{name} ({domain})" for domain, graders in names.items() for name in graders if is_own_code(name)]
    if own:
        raise RunDirectoryError(
            f"this run is graded by code that is not part of moe_ray: {', '.join(own)}",
            where=str(run.path),
            remedy="add --experiment FILE to take the graders from your own experiment file, or --trust to run what "
            "the run directory names",
        )


def _tamed(run: RunDirectory, sandbox: SandboxConfig) -> SandboxConfig:
    """The sandbox's limits, as far as a directory may ask for them: no more workers than this machine would take."""
    if sandbox.memory_mib > MAX_MEMORY_MIB:
        raise RunDirectoryError(
            f"this run lets each program use {sandbox.memory_mib} MiB of memory, more than {MAX_MEMORY_MIB} MiB",
            where=str(run.path),
            remedy="add --experiment FILE to take the limits from your own experiment file, or --trust",
        )
    return sandbox.model_copy(update={"num_workers": "auto"})
