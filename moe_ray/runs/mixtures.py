"""Pipelines that train mixtures: `moe train-gate` in this process, `moe pretrain` and `moe finetune` on Ray."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from moe_ray.config.schema import RuntimeConfig
from moe_ray.device import choose_device
from moe_ray.errors import DataError
from moe_ray.moe.btx.finetune import FinetuneRecord, finetune
from moe_ray.moe.btx.pretrain import PretrainRecord, pretrain
from moe_ray.moe.btx.request import PretrainConfig, load_pretrain_config
from moe_ray.moe.btx.texts import read_expert_texts
from moe_ray.moe.btx.training import ExpertTrainingJob, RunTrainings, train
from moe_ray.moe.merge.gate import TrainedGate, require_gate_or_nothing
from moe_ray.moe.merge.gate_training import train_gate
from moe_ray.moe.merge.request import load_gate_config
from moe_ray.progress import TrainingProgress


def train_gate_of_file(
    file: Path, out: Path, *, on_epoch: Callable[[TrainingProgress], None] = lambda _: None
) -> TrainedGate:
    """Train the gate that `file` describes, save it to `out`, and return it with its test results.

    Raises what `train_gate` raises, `ModelError` if `out` holds anything but a gate, and `DataError` if `out` cannot be
    written.
    """
    config = load_gate_config(file)
    require_gate_or_nothing(out)
    device = choose_device(RuntimeConfig().cpu_threads)
    gate = train_gate(config, file.absolute().parent, device=device, on_progress=on_epoch)
    with write_errors(out):
        gate.save(out)
    return gate


@contextmanager
def write_errors(out: Path) -> Iterator[None]:
    """Raise `DataError` in place of an `OSError` while `out` is written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}", where=str(out), remedy="choose another folder"
        ) from error


def pretrain_on_ray(
    file: Path,
    out: Path,
    *,
    on_progress: Callable[[str], object],
    on_notice: Callable[[str], None],
    on_step: Callable[[TrainingProgress], object],
) -> PretrainRecord:
    """Train the experts that `file` describes, as Ray tasks, and mix them; see `pretrain`."""
    config = load_pretrain_config(file)
    with _ray_tasks(config, on_notice) as run:
        base_dir = file.absolute().parent
        return pretrain(config, base_dir, out.absolute(), run=run, on_progress=on_progress, on_step=on_step)


def finetune_on_ray(
    file: Path,
    mixture: Path,
    out: Path,
    *,
    on_notice: Callable[[str], None],
    on_step: Callable[[TrainingProgress], object],
) -> FinetuneRecord:
    """Train the gates of `mixture` on the texts of `file`, as a Ray task; see `finetune`."""
    config = load_pretrain_config(file)
    texts = read_expert_texts(config.experts, file.absolute().parent, held_out_fraction=config.held_out_fraction)
    with _ray_tasks(config, on_notice) as run:
        return finetune(
            mixture.absolute(),
            out.absolute(),
            [text for one in texts.values() for text in one.train],
            config.finetune,
            held_out={expert: one.held_out for expert, one in texts.items()},
            num_threads=config.runtime.cpu_threads,
            run=run,
            on_step=on_step,
        )


@contextmanager
def _ray_tasks(config: PretrainConfig, on_notice: Callable[[str], None]) -> Iterator[RunTrainings]:
    """Yield a runner of trainings as Ray tasks; a training that loses its worker or node resumes from its last state.

    A cluster is joined or started when the runner is called, and left at the end of the context.
    """
    with ExitStack() as until_the_end:

        def run(jobs: Sequence[ExpertTrainingJob]) -> Iterator[TrainingProgress]:
            from moe_ray.execution.cluster import connect
            from moe_ray.execution.tasks import Retries, stream_tasks, task_size

            runtime = config.runtime
            until_the_end.enter_context(connect(runtime))
            size = task_size(runtime, config.gpus)
            retries = Retries(
                max_attempts=runtime.max_attempts,
                name=lambda job: f"the training of {job.out_dir.name}",
                on_retry=on_notice,
            )
            yield from stream_tasks(train, jobs, size, retries)

        yield run
