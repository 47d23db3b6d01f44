"""Files that name local paths, as they are sent: resolved, with the paths' places in the package."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from moe_ray.clusters.ray_jobs.packed_paths import PackedPaths, folder_of
from moe_ray.config.dump import CoreDumper
from moe_ray.config.load import LoadedExperiment, load_experiment
from moe_ray.config.schema import is_local_path
from moe_ray.config.section import Section
from moe_ray.domains.sources import resolve_path

_WIDTH = 110
# A cluster's address and folders of this machine mean nothing there.
_OWN_RUNTIME: Mapping[str, Any] = {"address": "auto", "temp_dir": None}

Values = dict[str, Any]


def pack_experiment(experiment: LoadedExperiment, paths: PackedPaths, name: str, *, with_models: bool = True) -> Values:
    """Add an experiment as the file `name`, with its data and graders; return its values.

    Without models, their checkpoints and engines' files stay here: the command that reads the file loads none.
    """
    values: Values = experiment.config.model_dump(mode="json")
    for model in values["models"].values() if with_models else ():
        _change(model, ("path", "tokenizer"), paths.checkpoint_or_data)
        model["engine_settings"] = {name: paths.setting(value) for name, value in model["engine_settings"].items()}
    for domain in values["domains"].values():
        _change(domain["data"], ("source", "ids_file"), paths.checkpoint_or_data)
        domain["graders"] = domain["graders"] and [paths.grader(grader) for grader in domain["graders"]]
    if (router := values["router"]) and with_models:
        _change(router, ("path", "base_model", "tokenizer"), paths.checkpoint_or_data)
        for data in (*router["data"].values(), *router["other"]):
            _change(data, ("source", "ids_file"), paths.checkpoint_or_data)
    values["runtime"] |= _OWN_RUNTIME
    values["serving"] |= {"api_keys_file": None, "record_dir": None}
    _add(values, paths, name)
    return values


def pack_graders(file: Path, paths: PackedPaths) -> tuple[str, Values]:
    """Add an experiment file whose data and graders are used; return its path in the package, and its values."""
    name = f"{folder_of(file)}.yaml"
    return f"./{name}", pack_experiment(load_experiment(file), paths.beside(file), name, with_models=False)


def pack_pretraining(file: Path, paths: PackedPaths) -> str:
    """Add the file of `moe pretrain` or `moe finetune` with what it names; return its path in the package."""
    from moe_ray.moe.btx.request import load_pretrain_config

    values, beside = _given(load_pretrain_config(file)), paths.beside(file)
    _change(values, ("base_model", "tokenizer"), beside.checkpoint_or_data)
    for texts in values["experts"].values():
        for one in texts:
            _change(one, ("source",), lambda path: _source(path, file, beside))
            _change(one, ("experiment",), lambda path: pack_graders(resolve_path(path, file.parent), paths)[0])
    values["runtime"] = {**values.get("runtime", {}), **_OWN_RUNTIME}
    return _add(values, paths, f"{folder_of(file)}.yaml")


def pack_gate(file: Path, paths: PackedPaths) -> str:
    """Add the file of `moe train-gate` with what it names; return its path in the package."""
    from moe_ray.moe.merge.request import load_gate_config

    values, beside = _given(load_gate_config(file)), paths.beside(file)
    _change(values, ("base_model",), beside.checkpoint_or_data)
    for texts in values["data"].values():
        for one in texts:
            _change(one, ("source",), lambda path: _source(path, file, beside))
    return _add(values, paths, f"{folder_of(file)}.yaml")


def _given(config: Section) -> Values:
    """Return what a file says. Keys that were left out stay so: some sections distinguish that from a default."""
    values: Values = config.model_dump(mode="json", exclude_unset=True)
    return values


def _source(source: str, file: Path, paths: PackedPaths) -> str:
    return paths.checkpoint_or_data(str(resolve_path(source, file.parent))) if is_local_path(source) else source


def _add(values: Values, paths: PackedPaths, name: str) -> str:
    text = yaml.dump(values, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
    paths.package.add_text(name, text)
    return f"./{name}"


def _change(values: Values, keys: Sequence[str], rewrite: Callable[[str], str]) -> None:
    for key in keys:
        if values.get(key) is not None:
            values[key] = rewrite(values[key])
