"""One upcycling from end to end: gates, conversion, tests, what failed made dense again, the certificate."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import moe_ray
from moe_ray.atomic import write_directory_atomically
from moe_ray.errors import DataError, ModelError, RunFailedError
from moe_ray.fingerprint import file_sha256
from moe_ray.moe.card import write_card
from moe_ray.moe.certificate import own_files, write_certificate
from moe_ray.moe.gates import prompt_gates, ridge_gates
from moe_ray.moe.places import require_free, require_space
from moe_ray.moe.records import Certificate, ExactnessRecord, LayerVerdict
from moe_ray.moe.running import TokenBatch, decoder_layers, load_for_construction, load_tokenizer, token_batches
from moe_ray.moe.source import source_record
from moe_ray.moe.texts import Texts, built_in_texts, read_texts
from moe_ray.moe.upcycle.checks import Agreement, compare_models, equal_logits
from moe_ray.moe.upcycle.convert import convert
from moe_ray.moe.upcycle.experts import Copies, FineTunes, Gates, random_gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import GateRequest, UpcycleRequest
from moe_ray.moe.upcycle.settings import UpcycleSettings
from moe_ray.moe.upcycle.verdicts import LayerTests, broken_limit, examine_drift, examine_exactness

RANDOM_SCALE = 0.02
WORK_FOLDER = ".work"

Told = Callable[[str], object]
Corrupt = Callable[[Mapping[int, nn.Module]], object]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Dense:
    """The model that is upcycled, loaded, and the batches that it and the mixture are compared on."""

    directory: Path
    model: Any
    tokenizer: Any
    texts: Texts
    batches: list[TokenBatch]


def upcycle_model(
    model_dir: Path,
    out_dir: Path,
    request: UpcycleRequest,
    *,
    told: Told = lambda _: None,
    planned: Callable[[UpcyclePlan], object] = lambda _: None,
    corrupt: Corrupt = lambda _: None,
) -> Certificate:
    """Make a mixture of the dense checkpoint in `model_dir` at `out_dir`, test it, and return its certificate.

    Each layer is converted to identical experts and held against the dense one, then converted as asked and held
    against the limits; what fails is dense again (or plain copies, in a class that has no dense layers). `out_dir`
    appears whole at the end, with certificate.json and a model card. Conversion streams; the tests load the dense
    model and the mixture in float32. `planned` gets the plan before any work, `told` hears of each step, and `corrupt`
    may spoil the layers that are tested.

    Raises `UserError` before work for what cannot be made, and `RunFailedError` when no layer passes.
    """
    plan = plan_upcycle(model_dir, request.settings())
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    request, texts = _with_texts(request)
    planned(plan)
    dense = _load(model_dir, request, texts)
    building = _Building(plan=plan, dense=dense, request=request, told=told, corrupt=corrupt, name=out_dir.name)
    certificates: list[Certificate] = []
    write_directory_atomically(out_dir, lambda directory: certificates.append(building.run(directory)))
    return certificates[0]


def _with_texts(request: UpcycleRequest) -> tuple[UpcycleRequest, Texts]:
    """Read the texts, and note which file it was."""
    if request.texts is None:
        return request, built_in_texts()
    path = Path(request.texts)
    texts, found = read_texts(path), file_sha256(path)
    if request.texts_sha256 not in (None, found):
        raise DataError("is not the file that was used", where=request.texts, remedy="name the file that was")
    num_experts = request.settings().num_networks
    if request.gate.init != "random" and len(texts.experts) != num_experts:
        raise DataError(
            f"has texts of {len(texts.experts)} experts, where gates need {num_experts}",
            where=request.texts,
            remedy="name the expert of each text, as many experts as the mixture has (num_experts / groups)",
        )
    return request.model_copy(update={"texts": str(path.absolute()), "texts_sha256": found}), texts


def _load(model_dir: Path, request: UpcycleRequest, texts: Texts) -> _Dense:
    tokenizer = load_tokenizer(model_dir)
    model = load_for_construction(model_dir, device="cuda" if torch.cuda.is_available() else "cpu")
    batches = token_batches(
        tokenizer,
        texts.texts,
        vocabulary_size=int(model.config.vocab_size),
        max_text_tokens=request.max_text_tokens,
        max_tokens=request.max_tokens,
    )
    return _Dense(directory=model_dir, model=model, tokenizer=tokenizer, texts=texts, batches=batches)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Building:
    plan: UpcyclePlan
    dense: _Dense
    request: UpcycleRequest
    told: Told
    corrupt: Corrupt
    name: str

    def run(self, directory: Path) -> Certificate:
        """Build the mixture in an empty directory."""
        work = directory / WORK_FOLDER
        gates = self._gates()
        tests = LayerTests(self.request.limits)
        settings = self.plan.recipe.settings
        self._test_exactness(tests, gates, work)
        self._test_drift(tests, gates, work)
        if not tests.passed:
            raise RunFailedError("no layer could stay converted: " + _reasons(tests))
        plan, copied = self._without_failed(settings, tests)
        made = work / "mixture"
        if tests.reasons:
            self.told(f"Converting again without {len(tests.reasons)} layers that failed")
            shutil.rmtree(made)
            convert(plan, made, gates=gates)
        record = self._exactness(made)
        _move_into(made, directory)
        return self._certify(plan, directory, tests, copied, record)

    def _gates(self) -> Gates:
        wanted, settings = self.request.gate, self.plan.recipe.settings
        if wanted.init == "random":
            width = int(self.plan.config.hidden_size)
            return random_gates(settings.num_networks, width, settings.seed, wanted.scale or RANDOM_SCALE)
        self.told(f"Making {wanted.init} gates of {len(self.dense.texts.texts)} texts")
        gates = _gates_of_texts(self.dense, wanted, self.request, settings.num_networks)
        return gates.__getitem__

    def _test_exactness(self, tests: LayerTests, gates: Gates, work: Path) -> None:
        settings = self.plan.recipe.settings
        plain = replace(settings, experts=Copies())
        self.told(f"Converting {len(self.plan.recipe.shape.layers)} layers to identical experts")
        made = work / "exact" if plain != settings else work / "mixture"
        convert(plan_upcycle(self.dense.directory, plain), made, gates=gates)
        self.told("Testing whether each layer is exact")
        examine_exactness(tests, self.dense.model, self._candidates(made), self.dense.batches)
        if plain != settings:
            shutil.rmtree(made)

    def _test_drift(self, tests: LayerTests, gates: Gates, work: Path) -> None:
        made = work / "mixture"
        if not made.exists():
            self.told("Converting to the experts that were asked for")
            convert(self.plan, made, gates=gates)
        self.told("Testing each layer on the texts, and all together")
        examine_drift(tests, self.dense.model, self._candidates(made), self.dense.batches)

    def _candidates(self, made: Path) -> dict[int, nn.Module]:
        mixture = load_for_construction(made, device=str(self.dense.model.device))
        layers = decoder_layers(mixture)
        found = {layer: layers[layer] for layer in self.plan.recipe.shape.layers}
        self.corrupt(found)
        return found

    def _without_failed(self, settings: UpcycleSettings, tests: LayerTests) -> tuple[UpcyclePlan, bool]:
        """The plan that leaves out the layers that failed, and whether it keeps them as copies."""
        if not tests.reasons:
            return self.plan, False
        try:
            left = replace(settings, every=None, layers=tuple(tests.passed))
            return plan_upcycle(self.dense.directory, left), False
        except ModelError:
            # The family has no class that mixes both kinds of layers.
            kept = replace(settings, copied_layers=tuple(sorted(tests.reasons)))
            return plan_upcycle(self.dense.directory, kept), True

    def _exactness(self, made: Path) -> ExactnessRecord:
        """Load the finished mixture twice, as anybody would, and hold it against the dense model and itself."""
        self.told("Loading the mixture again, and comparing it with its source")
        device = str(self.dense.model.device)
        mixture = load_for_construction(made, device=device)
        agreement = compare_models(self.dense.model, mixture, self.dense.batches)
        reason = broken_limit(self._final_measures(agreement), self._final_limits())
        if reason is not None:
            raise RunFailedError(f"the layers passed, but the mixture did not: {reason}")
        again = load_for_construction(made, device=device)
        return ExactnessRecord(
            against=self.plan.recipe.source.name,
            num_tokens=agreement.num_tokens,
            max_logit_difference=agreement.max_difference,
            greedy_agreement=agreement.greedy_agreement,
            reload_equal=equal_logits(mixture, again, self.dense.batches),
        )

    def _final_measures(self, agreement: Agreement) -> dict[str, float]:
        return {**agreement.measured(), "exact_logit_difference": agreement.relative_difference}

    def _final_limits(self) -> dict[str, float]:
        experts = self.plan.recipe.settings.experts
        if isinstance(experts, FineTunes) or not experts.are_plain:
            return self.request.limits.drift()
        return {"exact_logit_difference": self.request.limits.max_difference, **self.request.limits.drift()}

    def _certify(
        self, plan: UpcyclePlan, directory: Path, tests: LayerTests, copied: bool, record: ExactnessRecord
    ) -> Certificate:
        recipe = plan.recipe
        certificate = Certificate(
            kind="upcycled",
            model_type=str(plan.config.model_type),
            moe_ray_version=moe_ray.__version__,
            transformers_version=transformers.__version__,
            created_at=time.time(),
            settings=self.request.model_dump(mode="json"),
            sources=[source_record(source) for source in (recipe.source, *recipe.fine_tunes)],
            layers=_verdicts(tests, recipe.shape.num_layers, kept_as=str(plan.config.model_type) if copied else None),
            tensors=list(plan.tensors),
            exactness=[record],
            tensors_sha256=own_files(directory),
        )
        write_certificate(directory, certificate)
        write_card(directory, certificate, name=self.name)
        return certificate


def _gates_of_texts(
    dense: _Dense, wanted: GateRequest, request: UpcycleRequest, num_experts: int
) -> dict[int, torch.Tensor]:
    layers = request.settings().chosen_layers(int(dense.model.config.num_hidden_layers))
    batches = token_batches(
        dense.tokenizer,
        dense.texts.texts,
        vocabulary_size=int(dense.model.config.vocab_size),
        max_text_tokens=request.max_text_tokens,
        labels=dense.texts.labels,
    )
    scale = wanted.scale or 1.0
    if wanted.init == "prompts":
        return prompt_gates(dense.model, batches, layers, num_experts=num_experts, scale=scale)
    return ridge_gates(dense.model, batches, layers, num_experts=num_experts, penalty=wanted.penalty, scale=scale)


def _verdicts(tests: LayerTests, num_layers: int, *, kept_as: str | None) -> list[LayerVerdict]:
    verdicts = tests.verdicts(num_layers)
    if kept_as is None:
        return verdicts
    told = f"; {kept_as} has no dense layers, so that it is made of copies of the dense network"
    return [
        verdict if verdict.reason is None else verdict.model_copy(update={"reason": verdict.reason + told})
        for verdict in verdicts
    ]


def _reasons(tests: LayerTests) -> str:
    return "; ".join(f"layer {layer}: {reason}" for layer, reason in sorted(tests.reasons.items()))


def _move_into(made: Path, directory: Path) -> None:
    for path in made.iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(made.parent)
