"""What the scores of a run directory would be made from, read from its files alone."""

from moe_ray.config.load import load_experiment
from moe_ray.runs.grading import grading_fingerprint
from moe_ray.store.run_directory import RunDirectory


def made_from(run: RunDirectory) -> str:
    """The fingerprint that a run notes when it is graded."""
    manifest, config = run.manifest(), load_experiment(run.config_path).config
    names = {domain: manifest.domains[domain]["graders"] for domain in config.domains}
    return grading_fingerprint(run, manifest, config, names)
