"""The site file: what differs between SLURM clusters. One file serves all experiments of a cluster."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from moe_ray.config.load import parse_section
from moe_ray.config.section import Section
from moe_ray.errors import ConfigError
from moe_ray.files import read_bytes

# Options of sbatch that the job script sets itself; a second value would contradict what the agents expect.
OWN_FLAGS = (
    "--array", "--chdir", "--cpus-per-task", "--error", "--export", "--gpus-per-node", "--gpus-per-task", "--gres",
    "--gpus", "--job-name", "--mem", "--mem-per-cpu", "--no-kill", "--no-requeue", "--nodes", "--ntasks",
    "--ntasks-per-node", "--open-mode", "--output", "--parsable", "--requeue", "--signal", "--test-only", "--time",
    "--wait", "--wrap", "-D", "-G", "-J", "-N", "-W", "-a", "-c", "-e", "-k", "-n", "-o", "-t",
)  # fmt: skip
# Ray's sockets lie below this folder, and the paths of Unix sockets end at 107 bytes.
MAX_TEMP_DIR_CHARACTERS = 16

OneLine = Annotated[str, Field(min_length=1, pattern=r"^[^\r\n\x00]+$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@+-]+$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class StagingConfig(Section):
    """Copies of checkpoints on the nodes' own disks."""

    folder: OneLine = Field(
        description="folder on a node's own disk, such as $TMPDIR; variables are those that the job has on the node"
    )
    keep: bool = Field(False, description="keep the copies for later jobs; default: removed when the job ends")
    max_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="size of all copies on a node, in GiB; those that were not used for the longest time go first"
    )

    @field_validator("folder")
    @classmethod
    def _absolute_or_variable(cls, folder: str) -> str:
        if not folder.startswith(("/", "$")):
            raise ValueError(f"must begin with / or with a variable such as $TMPDIR, not {folder!r}")
        return folder


class SiteConfig(Section):
    """The settings of one SLURM cluster."""

    prefix: tuple[OneLine, ...] = Field(
        (), description="shell lines before the job starts: module load, conda activate, export"
    )
    python: OneLine | None = Field(
        None,
        description="command that runs Python with moe_ray on a node, such as `apptainer exec --nv image.sif python`; "
        "default: the Python that submits",
    )
    partition: Word | None = None
    account: Word | None = None
    gpu_request: Literal["gres", "gpus-per-node"] = Field(
        "gres", description="how GPUs are requested: --gres=gpu:N, or --gpus-per-node=N"
    )
    gpu_type: Word | None = Field(None, description="type of GPU, such as a100, when the cluster has several")
    cpus_per_gpu: Annotated[int, Field(ge=1)] = Field(
        4, description="CPUs to request for each GPU, and for a node without GPUs"
    )
    memory_per_node: Word | None = Field(None, description="memory to request, such as 64G; default: the cluster's")
    sbatch: tuple[OneLine, ...] = Field((), description="further options of sbatch, such as --qos=normal")
    interface: Word | None = Field(
        None, description="network interface for Ray, such as ib0; default: the route between the nodes"
    )
    temp_dir: Path = Field(Path("/tmp"), description="folder on each node's own disk for Ray's files; a short path")
    staging: StagingConfig | None = Field(
        None, description="copy each checkpoint to the disk of each node that uses it, once; default: read it in place"
    )
    offline: bool = Field(False, description="nodes have no internet: all that a run needs must be there beforehand")
    environment: dict[VariableName, OneLine] = Field(
        default_factory=dict, description="variables of the job, such as HF_HOME; never a secret"
    )

    @field_validator("sbatch")
    @classmethod
    def _no_own_flags(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        for flag in flags:
            name = re.split(r"[= ]", flag, maxsplit=1)[0]
            if not name.startswith("-"):
                raise ValueError(f"{flag!r} is not an option: write --NAME=VALUE")
            if name in OWN_FLAGS or (not name.startswith("--") and name[:2] in OWN_FLAGS):
                raise ValueError(f"{name} is set by the command line or by the job script, not here")
        return flags

    @field_validator("temp_dir")
    @classmethod
    def _short_and_absolute(cls, folder: Path) -> Path:
        if not folder.is_absolute() or len(str(folder)) > MAX_TEMP_DIR_CHARACTERS:
            raise ValueError(f"must be an absolute path of at most {MAX_TEMP_DIR_CHARACTERS} characters, not {folder}")
        return folder

    @property
    def hub_variables(self) -> dict[str, str]:
        """The variables of the job that say where the hub and its caches are."""
        return {
            name: value
            for name, value in self.environment.items()
            if name.startswith("HF_") and not name.endswith("OFFLINE")
        }

    @property
    def python_command(self) -> str:
        """The shell command that runs Python on a node."""
        return self.python or shlex.quote(sys.executable)


def load_site(path: Path | None) -> SiteConfig:
    """Read a site file; the defaults without one. Raises `ConfigError` that names every mistake."""
    if path is None:
        return SiteConfig()
    try:
        text = read_bytes(path, max_bytes=1 << 20).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8", where=str(path), remedy="save the file as UTF-8") from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check the path after --site"
        ) from error
    return parse_section(text, str(path), SiteConfig)
