"""Checks of one experiment: its file, models, data, keys and memory. Reads headers, never weights; uses no network."""

import os
from collections.abc import Iterator
from pathlib import Path

from moe_ray.architectures.shapes import parameters_of_config
from moe_ray.checkpoints.files import count_parameters
from moe_ray.clusters.doctor.checks import Fault, check
from moe_ray.clusters.doctor.limits import memory_available_bytes
from moe_ray.clusters.doctor.machine import Machine
from moe_ray.config.schema import DataConfig, ExperimentConfig, ModelConfig, is_local_path
from moe_ray.engines.registry import settings_class, validate_engine
from moe_ray.errors import UserError
from moe_ray.files import read_json
from moe_ray.formatting import size
from moe_ray.planning.memory import ACTIVATION_SHARE, DEVICE_OVERHEAD_BYTES, planned_weights_bytes

WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
SET = ("1", "true", "yes", "on")
UNPRIVILEGED = ("proc/sys/user/max_user_namespaces", "proc/sys/kernel/unprivileged_userns_clone")


@check("experiment", "failure")
def experiment_file(machine: Machine) -> Iterator[Fault]:
    """The experiment's file has mistakes.

    The evidence is what every command would say about it.
    """
    if machine.wrong_experiment is not None:
        error = machine.wrong_experiment
        yield Fault("the experiment's file has mistakes", error.in_a_list, "moe-ray plan FILE")
        return
    for name, model in _models(machine):
        try:
            validate_engine(model)
        except UserError as error:
            yield Fault(f"models.{name}.{error.where}: {error.what}", f"engine {model.engine}", "moe-ray plan FILE")


@check("models", "failure")
def models(machine: Machine) -> Iterator[Fault]:
    """A model's files are not here.

    A local checkpoint is a folder with config.json, weights and a tokenizer, at the same path on all nodes.
    """
    for name, model in _models(machine):
        path = Path(model.path).expanduser()
        if not (_has_files(model) and is_local_path(model.path)) or _is_single_file(model, path):
            continue
        missing = "the folder does not exist" if not path.is_dir() else None
        if missing is None and not (path / "config.json").is_file():
            missing = "it has no config.json"
        if missing is None and not any(any(path.glob(pattern)) for pattern in WEIGHTS):
            missing = "it has no weights"
        if missing is not None:
            yield Fault(f"the checkpoint of models.{name} is not here", f"{path}: {missing}", f"ls -l {path}")


@check("hub-models", "failure")
def hub_models(machine: Machine) -> Iterator[Fault]:
    """A model of the hub is not in the cache, and cannot be fetched here.

    With HF_HUB_OFFLINE nothing is fetched. Compute nodes often have no internet: inside a SLURM job this is a warning.
    """
    offline = machine.variable("HF_HUB_OFFLINE").lower() in SET
    if not offline and not machine.in_slurm_job:
        return
    cache = hub_cache(machine)
    for name, model in _models(machine):
        if _has_files(model) and not is_local_path(model.path) and not _is_cached(cache, "models", model.path):
            why = "HF_HUB_OFFLINE is set" if offline else "compute nodes often have no internet"
            yield Fault(
                f"models.{name} is on the hub, and not in the cache",
                f"{model.path} is not in {cache}; {why}",
                f"HF_HUB_OFFLINE=0 moe-ray models download FILE --only {name}  # where there is internet",
                "failure" if offline else "warning",
            )


@check("data", "failure")
def data(machine: Machine) -> Iterator[Fault]:
    """A data set is not here.

    A local file is missing, or a data set of the hub is not in the cache and HF_HUB_OFFLINE is set.
    """
    if machine.experiment is None:
        return
    offline = any(machine.variable(name).lower() in SET for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    for key, section in _data_sections(machine.experiment.config):
        path = machine.experiment.base_dir / Path(section.source).expanduser()
        if is_local_path(section.source):
            if not path.exists():
                yield Fault(f"the data of {key} is not here", f"{path} does not exist", f"ls -l {path.parent}")
        elif offline and not _has_data(machine, section.source):
            yield Fault(
                f"the data of {key} is on the hub, and not in the cache",
                f"{section.source}; the hub is switched off by a variable",
                "HF_HUB_OFFLINE=0 HF_DATASETS_OFFLINE=0 moe-ray data prepare FILE  # where there is internet",
            )


@check("api-keys", "failure")
def api_keys(machine: Machine) -> Iterator[Fault]:
    """The variable with an API's key is not set.

    The key itself is never printed, and kept in no file.
    """
    wanted = dict.fromkeys(str(model.engine_settings.get("api_key_env") or "") for _, model in _models(machine))
    for variable in wanted:
        if variable and not machine.variable(variable):
            names = ", ".join(
                name for name, model in _models(machine) if model.engine_settings.get("api_key_env") == variable
            )
            yield Fault(
                f"{variable} is not set, and models need the key in it",
                f"engine_settings.api_key_env of {names}",
                f"read -rs {variable} && export {variable}",
            )


@check("memory", "failure")
def memory(machine: Machine) -> Iterator[Fault]:
    """A model does not fit.

    Its weights alone, with the usual share for activations, are larger than the memory of all GPUs here, or without a
    GPU than the memory that is free. Not checked where a cluster is named.
    """
    if machine.experiment is None or machine.address is not None:
        return
    runtime = machine.experiment.config.runtime
    gpu_bytes = [reading.total_bytes for reading in machine.gpus()]
    gpu_bytes = gpu_bytes if runtime.gpus == "auto" else gpu_bytes[: runtime.gpus]
    for name, model in _models(machine):
        needed = _needed_bytes(machine, model)
        on_gpu = bool(gpu_bytes) and model.gpus != 0 and settings_class(model.engine).needs_gpu
        if model.gpus != "auto" and model.gpus > len(gpu_bytes):
            yield Fault(
                f"models.{name} needs {model.gpus:g} GPUs, and this machine has {len(gpu_bytes)}",
                f"models.{name}.gpus",
                f"moe-ray evaluate FILE --set models.{name}.gpus=auto",
            )
        elif needed is not None and needed > (room := _room_bytes(machine, gpu_bytes if on_gpu else [])):
            yield Fault(
                f"models.{name} does not fit: it needs at least {size(needed)}",
                f"{'all GPUs here together have' if on_gpu else 'free memory of this machine:'} {size(room)}",
                f"moe-ray plan FILE --set models.{name}.quantization=4bit",
            )


@check("sandbox", "failure")
def sandbox(machine: Machine) -> Iterator[Fault]:
    """Generated programs cannot be isolated here.

    An experiment that runs generated code needs bubblewrap or user namespaces. `runtime.sandbox.allow_weak` accepts
    less.
    """
    if machine.experiment is None or machine.experiment.config.runtime.sandbox.allow_weak:
        return
    if not any(_runs_code(domain.task, domain.grader_names) for domain in machine.experiment.config.domains.values()):
        return
    box = ("--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true")
    tried = machine.run("bwrap", *box)
    if tried is not None and tried.code == 0:
        return
    spaces = machine.run("unshare", "--user", "--map-root-user", "--pid", "--net", "--fork", "true")
    if spaces is None or spaces.code != 0:
        shown = "bwrap is not on PATH" if tried is None else f"bwrap: {(tried.text.strip() or 'fails')[:200]}"
        yield Fault(
            "generated programs cannot be isolated: neither bubblewrap nor user namespaces work",
            f"{shown}; {', '.join(_namespace_limits(machine)) or 'unshare fails too'}",
            "apt-get install bubblewrap  # as root; or: moe-ray evaluate FILE --allow-weak-sandbox",
        )


def hub_cache(machine: Machine) -> Path:
    """Return the folder of the hub's cache."""
    if machine.variable("HF_HUB_CACHE"):
        return Path(machine.variable("HF_HUB_CACHE")).expanduser()
    home = machine.variable("HF_HOME") or machine.home / ".cache/huggingface"
    return Path(home).expanduser() / "hub"


def _models(machine: Machine) -> Iterator[tuple[str, ModelConfig]]:
    yield from machine.experiment.config.models.items() if machine.experiment is not None else ()


def _has_files(model: ModelConfig) -> bool:
    return settings_class(model.engine).has_files


def _is_single_file(model: ModelConfig, path: Path) -> bool:
    return settings_class(model.engine).reads_single_files and path.is_file()


def _is_cached(cache: Path, kind: str, repository: str) -> bool:
    snapshots = cache / f"{kind}--{repository.replace('/', '--')}" / "snapshots"
    return snapshots.is_dir() and any(any(one.iterdir()) for one in snapshots.iterdir() if one.is_dir())


def _has_data(machine: Machine, repository: str) -> bool:
    """Say whether a data set is in the cache of the hub, or prepared in that of datasets."""
    home = Path(machine.variable("HF_HOME") or machine.home / ".cache/huggingface").expanduser()
    prepared = Path(machine.variable("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    return (
        _is_cached(hub_cache(machine), "datasets", repository)
        or (prepared / repository.replace("/", "___").lower()).is_dir()
    )


def _data_sections(config: ExperimentConfig) -> Iterator[tuple[str, DataConfig]]:
    for name, domain in config.domains.items():
        yield f"domains.{name}", domain.data
    for name, section in (config.router.data if config.router is not None else {}).items():
        yield f"router.data.{name}", section


def _needed_bytes(machine: Machine, model: ModelConfig) -> int | None:
    """Return the least memory of one copy; None where its size is unknown here."""
    engine = settings_class(model.engine)
    if not engine.has_files:
        return engine.size_bytes(model) or None
    folder = _checkpoint_folder(machine, model)
    if folder is None:
        return None
    try:
        config = read_json(folder / "config.json")
        files = sorted(folder.glob("*.safetensors"))
        number = sum(count_parameters(file) for file in files) if files else parameters_of_config(config)
    except (OSError, ValueError, UserError):
        return None
    return None if number is None else int(planned_weights_bytes(number, config, model) * (1 + ACTIVATION_SHARE))


def _checkpoint_folder(machine: Machine, model: ModelConfig) -> Path | None:
    if is_local_path(model.path):
        path = Path(model.path).expanduser()
        return path if path.is_dir() else None
    snapshots = hub_cache(machine) / f"models--{model.path.replace('/', '--')}" / "snapshots"
    return max(snapshots.glob("*"), key=os.path.getmtime, default=None) if snapshots.is_dir() else None


def _room_bytes(machine: Machine, gpu_bytes: list[int]) -> int:
    if gpu_bytes:
        return sum(gpu_bytes) - DEVICE_OVERHEAD_BYTES * len(gpu_bytes)
    available = memory_available_bytes(machine)
    return available if available is not None else 1 << 62


def _runs_code(task: str, graders: tuple[str, ...] | None) -> bool:
    from moe_ray.domains.registry import task_class

    return "code" in (task_class(task, where="task").default_graders if graders is None else graders)


def _namespace_limits(machine: Machine) -> list[str]:
    found = ((name, (machine.read(name) or "").strip()) for name in UNPRIVILEGED)
    return [f"{name.removeprefix('proc/sys/').replace('/', '.')} = 0" for name, value in found if value == "0"]
