"""`moe-ray slurm prefetch`: what an experiment takes from the hub, into the caches that nodes without network read."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moe_ray.checkpoints.download import DownloadJob, make_job, require_space
from moe_ray.checkpoints.repository import look_up
from moe_ray.cli.models import run_jobs
from moe_ray.cli.options import Changes, load
from moe_ray.cli.terminal import Terminal, output_console
from moe_ray.clusters.slurm.script import OFFLINE
from moe_ray.clusters.slurm.site import SiteConfig, load_site
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.hub_data import HubDataSize, measure
from moe_ray.domains.sources import read_source
from moe_ray.errors import Problems, UserError
from moe_ray.formatting import plural, size
from moe_ray.hub import hub_answers
from moe_ray.mounts import mount_of
from moe_ray.runs.grading import make_all_graders
from moe_ray.runs.hub_needs import HubData, hub_data, hub_metrics, hub_repositories, local_paths, missing_offline
from moe_ray.runs.inputs import located

NUM_NAMED = 8
SPACE_REMEDY = "free space, or name another disk with HF_HOME in the site file's environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    jobs: list[DownloadJob]
    data: list[tuple[HubData, HubDataSize]]

    @property
    def num_bytes_missing(self) -> int:
        return sum(job.num_bytes_missing for job in self.jobs) + sum(it.num_bytes_missing for _, it in self.data)


def prefetch(file: Path, changes: Changes, site_file: Path | None, *, dry_run: bool) -> None:
    """Show what `file` needs and what is there already, and download the rest; with `dry_run`, download nothing.

    Raises one `UserError` of all that is missing, gated or unknown, and where a disk is too small, before a download.
    """
    # Before the hub's libraries load: they read these variables once.
    os.environ.update(load_site(site_file).hub_variables)
    experiment, console = load(file, changes), output_console(soft_wrap=True)
    plan = _make_plan(experiment)
    _show(console, experiment, plan)
    require_space(plan.jobs, [(found.folder, found.num_bytes_missing) for _, found in plan.data], SPACE_REMEDY)
    if dry_run:
        return
    run_jobs(console, plan.jobs)
    with located(experiment):
        for (key, data), found in plan.data:
            num_records = len(read_source(data, experiment.base_dir).records)
            console.print(f"{key}: {data.source}, split {data.split}, {plural(num_records, 'record')}")
            console.print(f"  in {found.folder}")
        metrics = hub_metrics(experiment.config)
        # To make these graders loads each metric with all that it fetches, and tries it on one text.
        make_all_graders(experiment.config, metrics, experiment.base_dir)
    console.print("All that the experiment takes from the hub is there; set `offline: true` in the site file.")


def _make_plan(experiment: LoadedExperiment) -> _Plan:
    problems, config = Problems(), experiment.config
    repositories, data = hub_repositories(config), hub_data(config)
    for key, path in local_paths(experiment).items():
        with problems.gathered(), located(experiment):
            if not path.exists():
                raise UserError(f"{path} does not exist", where=key, remedy="check the path")
    if (repositories or data) and not hub_answers():
        raise _unreachable()
    jobs, measured = [], []
    for repository in repositories:
        with problems.gathered(), located(experiment):
            jobs.append(make_job(look_up(repository), None))
    for one in data:
        with problems.gathered(), located(experiment):
            measured.append((one, measure(one.data)))
    problems.raise_if_any()
    return _Plan(jobs=jobs, data=measured)


def _unreachable() -> UserError:
    from huggingface_hub import constants

    return UserError(
        f"the hub cannot be reached at {constants.ENDPOINT}",
        where="moe-ray slurm prefetch",
        remedy="run it on a node with network (HF_ENDPOINT names a mirror, HF_HUB_OFFLINE must not be set)",
    )


def _show(console: Terminal, experiment: LoadedExperiment, plan: _Plan) -> None:
    for job in plan.jobs:
        one, total = job.snapshot.repository, sum(file.num_bytes for file in job.snapshot.files)
        at = f"{one.repo} at {one.revision or job.snapshot.commit}"
        files = plural(len(job.snapshot.files), "file")
        console.print(f"{one.key}: {at}, {files}, {size(total)}, {_to_fetch(job.num_bytes_missing)}")
    for (key, data), found in plan.data:
        missing = 0 if found.is_there else found.num_bytes
        console.print(f"{key}: {data.source}, split {data.split}, {size(found.num_bytes)}, {_to_fetch(missing)}")
    for domain, metrics in hub_metrics(experiment.config).items():
        console.print(f"domains.{domain}.graders: {', '.join(metrics)}, size unknown")
    for key, path in local_paths(experiment).items():
        console.print(f"{key}: {path} is local")
    for warning in _places_that_nodes_may_not_see(experiment, plan):
        console.print(warning)
    console.print(f"{size(plan.num_bytes_missing)} of disk space needed in all")


def _to_fetch(num_bytes: int) -> str:
    return f"{size(num_bytes)} to fetch" if num_bytes else "already there"


def _places_that_nodes_may_not_see(experiment: LoadedExperiment, plan: _Plan) -> Iterator[str]:
    """Name what lies on a disk that looks like this machine's own; only a node can say for sure."""
    caches = {job.place for job in plan.jobs} | {found.folder for _, found in plan.data}
    named = [*(("the hub's cache", cache) for cache in sorted(caches)), *local_paths(experiment).items()]
    for key, path in named:
        mount = mount_of(path)
        if mount is not None and not mount.is_network:
            yield f"warning: {key}: {path} is on a disk of this machine ({mount.kind}), which nodes may not see"


def require_prefetched(experiment: LoadedExperiment, site: SiteConfig) -> None:
    """Raise `UserError` that names what nodes without network would lack. Makes no request."""
    os.environ.update({**OFFLINE, **site.hub_variables})
    lacking = missing_offline(experiment)
    if lacking:
        shown = [f"{key} ({name})" for key, name in lacking.items()]
        more = f" and {len(shown) - NUM_NAMED} more" if len(shown) > NUM_NAMED else ""
        raise UserError(
            f"not in the hub's cache, and nodes are offline: {', '.join(shown[:NUM_NAMED])}{more}",
            where=str(experiment.path),
            remedy="run moe-ray slurm prefetch with the same file and --site, on a node with network",
        )
