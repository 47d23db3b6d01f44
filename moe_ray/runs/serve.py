"""Serving an experiment or a run: find its router, place its models, start the application, end it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_ray.checkpoints.identity import Checkpoint
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import ExperimentConfig
from moe_ray.config.serving import ServingConfig
from moe_ray.errors import ConfigError, RunDirectoryError, UserError
from moe_ray.execution.observer import RunObserver
from moe_ray.planning.fleet import Fleet
from moe_ray.planning.memory import ModelUse
from moe_ray.planning.plan import place_models
from moe_ray.routing.files import find_router, read_record
from moe_ray.runs.inputs import inspect_checkpoints
from moe_ray.runs.work import pinned
from moe_ray.serving.access import read_keys
from moe_ray.serving.ports import port_to_listen_on
from moe_ray.serving.system import ServedSystem, lay_out, served_models
from moe_ray.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from moe_ray.serving.running import Served

DEFAULT_CONTEXT_TOKENS = 4096


def open_served(path: Path, overrides: tuple[str, ...] = (), *, trust: bool = False) -> LoadedExperiment:
    """Return the experiment of a file, or of a run directory, whose router it then names.

    A run directory may be somebody else's: unless it is trusted, a model of it that would run code is refused.
    """
    if path.is_file() or not path.exists():
        return load_experiment(path, list(overrides))
    run = RunDirectory(path)
    manifest = run.manifest()
    loaded = load_experiment(run.config_path, list(overrides))
    if not trust:
        _refuse_code(run, loaded.config)
    if manifest.router is None or loaded.config.router is None:
        return loaded
    directory = str(find_router(path).resolve())
    router = loaded.config.router.model_copy(update={"path": directory})
    return replace(loaded, config=loaded.config.model_copy(update={"router": router}))


def _refuse_code(run: RunDirectory, config: ExperimentConfig) -> None:
    for name, model in config.models.items():
        runs = "trust_remote_code" if model.trust_remote_code else None
        runs = "an engine of its own" if ":" in model.engine else runs
        runs = "a command of its own" if model.engine == "server" else runs
        if runs is not None:
            raise RunDirectoryError(
                f"its model {name} would run code: {runs}",
                where=str(run.config_path),
                remedy="serve your own experiment file, or add --trust to run what the run directory names",
            )


def router_directory_of(experiment: LoadedExperiment, obtain: Callable[[LoadedExperiment], Path]) -> Path | None:
    """Return the directory of the experiment's router, which `obtain` finds or trains unless the file names it.

    None for an experiment without a router.
    """
    router = experiment.config.router
    if router is None:
        return None
    if router.path is not None:
        path = Path(router.path).expanduser()
        directory = path if path.is_absolute() else experiment.base_dir / path
    else:
        directory = obtain(experiment)
    _require_domains(experiment, directory)
    return directory.resolve()


def _training(observer: RunObserver) -> Callable[[LoadedExperiment], Path]:
    """Return what trains an experiment's router where it is not there yet."""
    from moe_ray.runs.router import trained_router

    return lambda experiment: trained_router(experiment, observer)[0]


def _require_domains(experiment: LoadedExperiment, directory: Path) -> None:
    from moe_ray.config.schema import OTHER
    from moe_ray.routing.router import require_domains

    known = [label for label in read_record(directory).labels if label != OTHER]
    require_domains(known, tuple(experiment.config.domains), where=experiment.where("router"))


def plan_serving(
    experiment: LoadedExperiment, checkpoints: dict[str, Checkpoint], fleet: Fleet, router_dir: Path | None
) -> ServedSystem:
    """Place every model of the experiment. Raises `CapacityError` for one that fits nowhere."""
    config = pinned(experiment.config, checkpoints)
    contexts = {name: _context_tokens(checkpoint) for name, checkpoint in checkpoints.items()}
    uses = {
        name: ModelUse(contexts[name] or DEFAULT_CONTEXT_TOKENS, config.runtime.batch_size) for name in config.models
    }
    placement = place_models(config.models, uses, checkpoints, fleet, config.runtime)
    return ServedSystem(
        name=config.name,
        models=served_models(config, contexts),
        experts={name: domain.expert for name, domain in config.domains.items() if domain.expert is not None},
        fallback=config.baseline,
        slots=lay_out(placement.demands, fleet, config.serving.replicas),
        router_dir=router_dir,
        decoding=config.decoding,
        runtime=config.runtime,
        serving=config.serving,
    )


def _context_tokens(checkpoint: Checkpoint) -> int | None:
    config = checkpoint.config or {}
    for key in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def build(target: Path, overrides: tuple[str, ...] = (), *, trust: bool = False) -> Any:
    """Return the Serve application of an experiment file or a run directory, for `serve run` and `serve deploy`.

    Ray must be connected. The files are read here; models' and router's folders must be visible on every node.
    """
    import logging

    from moe_ray.execution.cluster import connect, fleet_of
    from moe_ray.execution.observer import LoggingObserver
    from moe_ray.serving.app import application

    experiment = open_served(target, overrides, trust=trust)
    observer = LoggingObserver(logging.getLogger("moe_ray"))
    checkpoints, router_dir = checked(experiment), router_directory_of(experiment, _training(observer))
    with connect(experiment.config.runtime) as cluster:
        system = plan_serving(experiment, checkpoints, fleet_of(cluster), router_dir)
    return application(system)


@contextlib.contextmanager
def serving(experiment: LoadedExperiment, observer: RunObserver) -> Iterator["Served"]:
    """Serve `experiment` until the context ends; then everything that was started here is ended."""
    from moe_ray.execution.cluster import connect, fleet_of, starts_ray
    from moe_ray.serving.running import running

    config = _with_port(experiment)
    experiment = replace(experiment, config=config)
    observer.stage("Reading checkpoints")
    checkpoints = checked(experiment)
    router_dir = router_directory_of(experiment, _training(observer))
    observer.stage("Joining Ray")
    ray_ends = starts_ray(config.runtime)
    with connect(config.runtime) as cluster:
        system = plan_serving(experiment, checkpoints, fleet_of(cluster), router_dir)
        with running(system, observer.stage, ray_ends=ray_ends) as served:
            yield served


def checked(experiment: LoadedExperiment) -> dict[str, Checkpoint]:
    """Inspect the checkpoints; raises one error of all that is wrong."""
    from moe_ray.errors import Problems

    problems = Problems()
    checkpoints = inspect_checkpoints(experiment, problems)
    unknown = [name for name in experiment.config.serving.replicas if name not in experiment.config.models]
    if unknown:
        with problems.gathered():
            raise ConfigError(f"no model is called {unknown[0]}", where=experiment.where("serving.replicas"))
    with problems.gathered():
        if (keys_file := experiment.config.serving.api_keys_file) is not None:
            read_keys(keys_file)
    with problems.gathered():
        if (record_dir := experiment.config.serving.record_dir) is not None:
            from moe_ray.serving.recording import require_writable

            require_writable(record_dir)
    problems.raise_if_any()
    return checkpoints


def _with_port(experiment: LoadedExperiment) -> ExperimentConfig:
    """Find a free port for 0, and refuse one that is taken before anything starts."""
    its = experiment.config.serving
    try:
        port = port_to_listen_on(its.host, its.port)
    except OSError as error:
        raise UserError(
            f"cannot listen on {its.host}:{its.port}: {error.strerror}",
            where=experiment.where("serving.port"),
            remedy="choose another with --port, or 0 for one that is free",
        ) from error
    chosen: ServingConfig = its.model_copy(update={"port": port})
    return experiment.config.model_copy(update={"serving": chosen})
