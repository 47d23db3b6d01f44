"""Experts trained on Ray: the pipelines of `moe pretrain` and `moe finetune`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from moe_ray.moe.btx.config import PretrainConfig, load_pretrain_config
from moe_ray.moe.btx.finetune import FinetuneRecord, finetune
from moe_ray.moe.btx.pretrain import PretrainRecord, pretrain
from moe_ray.moe.btx.texts import read_expert_texts
from moe_ray.moe.btx.training import ExpertTrainingJob, RunTrainings, TrainingStep, train


def pretrain_on_ray(
    file: Path,
    out: Path,
    *,
    on_stage: Callable[[str], object],
    on_notice: Callable[[str], None],
    on_step: Callable[[TrainingStep], object],
) -> PretrainRecord:
    """Train the experts that `file` describes, as Ray tasks, and mix them; see `pretrain`."""
    config = load_pretrain_config(file)
    with _ray_tasks(config, on_notice) as run:
        return pretrain(config, file.absolute().parent, out.absolute(), run=run, told=on_stage, heard=on_step)


def finetune_on_ray(
    file: Path,
    mixture: Path,
    out: Path,
    *,
    on_notice: Callable[[str], None],
    on_step: Callable[[TrainingStep], object],
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
            heard=on_step,
        )


@contextmanager
def _ray_tasks(config: PretrainConfig, on_notice: Callable[[str], None]) -> Iterator[RunTrainings]:
    """Yield what runs trainings as Ray tasks; one that lost its worker or node continues from its last state.

    A cluster is joined, or started, when there is something to train, and left at the end of the context.
    """
    with ExitStack() as until_the_end:

        def run(jobs: Sequence[ExpertTrainingJob]) -> Iterator[TrainingStep]:
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
