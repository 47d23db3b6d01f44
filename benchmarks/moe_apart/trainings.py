"""All trainings, in folders below one; what is there already is kept, and what was stopped goes on."""

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.moe_apart.clock import Clock
from benchmarks.moe_apart.sizes import Size
from benchmarks.moe_apart.texts import HELD_OUT_FRACTION, Texts
from moe_ray.config.schema import RuntimeConfig
from moe_ray.moe.btx.build import build_btx, plan_btx
from moe_ray.moe.btx.finetune import finetune
from moe_ray.moe.btx.pretrain import ANCHOR, BASE, EXPERTS, MIXTURE, RECORD_FILE, pretrain, write_base
from moe_ray.moe.btx.request import FinetuneSettings, PretrainConfig, TextsConfig
from moe_ray.moe.btx.training import ExpertTrainingJob

TOP_K = 2
FINETUNED = {"gates": False, "gates and experts": True}


class Trainings:
    """Makes checkpoints and returns their folders. `told` hears what is begun."""

    def __init__(
        self,
        folder: Path,
        experts: Mapping[str, tuple[TextsConfig, ...]],
        texts: Texts,
        size: Size,
        *,
        num_threads: int,
        told: Callable[[str], object],
    ) -> None:
        self._folder, self._experts, self._texts, self._size = folder, experts, texts, size
        self._num_threads, self._told = num_threads, told
        self._clock = Clock(folder)

    @property
    def anchor(self) -> Path:
        """What everything but the dense models from nothing starts from; `pretrained` makes it."""
        return self._folder / self._named("experts", self._size.rates["experts"][0]) / ANCHOR

    def seconds(self, trained: Path) -> float:
        """Wall seconds of the training that wrote this checkpoint."""
        return self._clock.seconds(trained)

    def pretrained(self, rate: float) -> Path:
        """Experts trained apart at this rate, from the same anchor at any rate, and their mixture."""
        out = self._folder / self._named("experts", rate)
        # A pretraining that is given again trains nothing, but measures all its models anew.
        if not (out / RECORD_FILE).is_file():
            base_model = None if self.anchor.parent == out else str(self.anchor)
            pretrain(self._config(rate, base_model), self._folder, out, run=self._clock.run, on_progress=self._told)
        return out

    def _config(self, rate: float, base_model: str | None = None) -> PretrainConfig:
        size = self._size
        return PretrainConfig(
            base_model=base_model,
            architecture=None if base_model else size.architecture(),
            experts=dict(self._experts),
            anchor=None if base_model else size.settings(size.anchor_steps, size.anchor_rate),
            training=size.settings(size.expert_steps, rate),
            top_k=TOP_K,
            held_out_fraction=HELD_OUT_FRACTION,
            runtime=RuntimeConfig(cpu_threads=self._num_threads),
        )

    def mixture(self, pretrained: Path, top_k: int) -> Path:
        """The mixture of a pretraining's experts, of which `top_k` answer a token."""
        if top_k == TOP_K:
            return pretrained / MIXTURE
        out = pretrained.with_name(f"{pretrained.name}, top-{top_k}")
        if not out.exists():
            experts = [pretrained / EXPERTS / name for name in self._texts.train]
            plan = plan_btx(self.anchor, experts, top_k=top_k, seed=self._size.seed)
            gate = self._config(self._size.rates["experts"][0]).gate
            build_btx(plan, out, gate=gate, texts=self._texts.train, settings={"top_k": top_k})
        return out

    def finetuned(self, mixture: Path, part: str, top_k: int, rate: float) -> Path:
        """The mixture with its gates trained, or gates and experts, on all texts."""
        out = self._folder / self._named(f"{part}, top-{top_k}", rate)
        if out.exists():
            return out
        self._told(f"Training {out.name}")
        asked = self._size.settings(self._size.finetune_steps, rate).model_dump(exclude={"epochs"})
        settings = FinetuneSettings(**asked, with_experts=FINETUNED[part])
        self._clock.start()
        finetune(
            mixture,
            out,
            self._texts.everything,
            settings,
            held_out={},
            num_threads=self._num_threads,
            on_step=lambda _: self._clock.lap(out),
        )
        return out

    def dense(self, name: str, start: Path, texts: tuple[str, ...], steps: int, rate: float) -> Path:
        """A dense model, trained whole."""
        job = ExpertTrainingJob(
            model_dir=start,
            out_dir=self._folder / self._named(name, rate),
            texts=texts,
            settings=self._size.settings(steps, rate),
            part="everything",
            num_threads=self._num_threads,
        )
        if not job.record_file.is_file():
            self._told(f"Training {job.name}")
        for _ in self._clock.run([job]):
            pass
        return job.out_dir

    def untrained(self, networks: int) -> Path:
        """A model with random weights, as large as `networks` experts, with the anchor's vocabulary."""
        out = self._folder / f"untrained, {networks} networks"
        config = self._config(self._size.rates["experts"][0]).model_copy(
            update={
                "architecture": self._size.architecture(networks),
                "tokenizer": str(self.anchor.with_name(BASE)),
            }
        )
        write_base(config, (), out)
        return out

    @staticmethod
    def _named(what: str, rate: float) -> str:
        return f"{what}, rate {rate:g}"
