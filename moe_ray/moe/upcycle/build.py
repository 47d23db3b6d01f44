"""Upcycle a model end to end: gates, conversion, layer tests, reverting failed layers, certificate."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.errors import ModelError, RunFailedError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.moe.certificate import Certificate, ExactnessRecord, LayerVerdict, certify
from moe_ray.moe.exactness import Agreement, compare_models, logits_sha256
from moe_ray.moe.running import decoder_layers, load_for_construction
from moe_ray.moe.upcycle.convert import Dense, convert, make_gates, with_texts
from moe_ray.moe.upcycle.experts import Copies, FineTunes, Gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import UpcycleRequest
from moe_ray.moe.upcycle.verify import LayerTests, broken_limit, examine_drift, examine_exactness
from moe_ray.moe.verify import Finding, compare_exactness, compare_layers, compare_tensors

WORK_FOLDER = ".work"

OnProgress = Callable[[str], object]
Corrupt = Callable[[Mapping[int, nn.Module]], object]


def build_upcycle(
    model_dir: Path,
    out_dir: Path,
    request: UpcycleRequest,
    *,
    on_progress: OnProgress = lambda _: None,
    on_plan: Callable[[UpcyclePlan], object] = lambda _: None,
    corrupt: Corrupt = lambda _: None,
) -> Certificate:
    """Make a mixture of the dense checkpoint in `model_dir` at `out_dir`, test it, and return its certificate.

    Each layer is first converted to identical experts and compared with the dense layer, then converted as requested
    and tested against the limits. A layer that fails becomes dense again (or plain copies, in a class without dense
    layers). `out_dir` is written atomically, with certificate.json and a model card. Conversion streams; the optional
    tests load the dense model and the mixture in float32. `on_plan` receives the plan before any work, `on_progress` a
    line for each step; `corrupt` lets tests damage the layers before they are tested.

    Raises `UserError` before any work for an invalid request, and `RunFailedError` if no layer passes.
    """
    model_dir = model_dir.expanduser().absolute()
    plan = plan_upcycle(model_dir, request.settings())
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    request, texts = with_texts(request)
    on_plan(plan)
    dense = Dense(model_dir, request, texts)
    building = _Building(
        plan=plan, dense=dense, request=request, on_progress=on_progress, corrupt=corrupt, name=out_dir.name
    )
    certificates: list[Certificate] = []
    write_directory_atomically(out_dir, lambda directory: certificates.append(building.run(directory)))
    return certificates[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """Layers under test, and their agreements when each alone is replaced, if measured already."""

    layers: Mapping[int, nn.Module]
    alone: Mapping[int, Agreement] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Building:
    plan: UpcyclePlan
    dense: Dense
    request: UpcycleRequest
    on_progress: OnProgress
    corrupt: Corrupt
    name: str

    def run(self, directory: Path) -> Certificate:
        """Build the mixture in an empty directory."""
        work = directory / WORK_FOLDER
        made = work / "mixture"
        tests = LayerTests(self.request.limits)
        gates = self._gates()
        plan, copied, exactness = self.plan, False, list[ExactnessRecord]()
        if self.request.check:
            self._test_drift(tests, gates, work, self._test_exactness(tests, gates, work))
            plan, copied = self._without_failed(tests)
        if tests.reasons:
            shutil.rmtree(made)
        if not made.exists():
            self.on_progress("Converting without the layers that failed" if tests.reasons else "Converting")
            convert(plan, made, gates=gates)
        if self.request.check:
            exactness.append(self._exactness(made))
        _move_into(made, directory)
        return self._certify(plan, directory, self._verdicts(tests, plan, copied), exactness)

    def _gates(self) -> Gates:
        if self.request.gate.init != "random":
            self.on_progress(f"Making {self.request.gate.init} gates of {len(self.dense.texts.texts)} texts")
        return make_gates(self.dense, self.request, self.plan.recipe.shape.layers, int(self.plan.config.hidden_size))

    def _test_exactness(self, tests: LayerTests, gates: Gates, work: Path) -> "_Known | None":
        """Test identical experts; return the layers with their results if identical experts were requested."""
        settings = self.plan.recipe.settings
        plain = replace(settings, experts=Copies())
        self.on_progress("Converting to identical experts")
        made = work / "exact" if plain != settings else work / "mixture"
        convert(plan_upcycle(self.dense.directory, plain), made, gates=gates)
        self.on_progress("Testing whether each layer is exact")
        layers = self._candidates(made)
        alone = examine_exactness(tests, self.dense.model, layers, self.dense.batches)
        if plain == settings:
            return _Known(layers=layers, alone=alone)
        shutil.rmtree(made)
        return None

    def _test_drift(self, tests: LayerTests, gates: Gates, work: Path, known: "_Known | None") -> None:
        if known is None:
            self.on_progress("Converting to the requested experts")
            convert(self.plan, work / "mixture", gates=gates)
            known = _Known(layers=self._candidates(work / "mixture"), alone=None)
        self.on_progress("Testing each layer on the texts, and all together")
        examine_drift(tests, self.dense.model, known.layers, self.dense.batches, known.alone)

    def _candidates(self, made: Path) -> dict[int, nn.Module]:
        mixture = load_for_construction(made, device=self.dense.device)
        layers = decoder_layers(mixture)
        found = {layer: layers[layer] for layer in self.plan.recipe.shape.layers}
        self.corrupt(found)
        return found

    def _without_failed(self, tests: LayerTests) -> tuple[UpcyclePlan, bool]:
        """Return the plan without the failed layers, and whether it keeps them as copies."""
        if not tests.passed:
            raise RunFailedError("no layer could stay converted: " + _reasons(tests))
        if not tests.reasons:
            return self.plan, False
        settings = self.plan.recipe.settings
        try:
            left = replace(settings, every=None, layers=tuple(tests.passed))
            return plan_upcycle(self.dense.directory, left), False
        except ModelError:
            # The family's mixture class has no dense layers.
            kept = replace(settings, copied_layers=tuple(sorted(tests.reasons)))
            return plan_upcycle(self.dense.directory, kept), True

    def _exactness(self, made: Path) -> ExactnessRecord:
        """Load the finished mixture twice, and compare it with the dense model and with itself."""
        self.on_progress("Loading the mixture again, and comparing it with its source")
        mixture = load_for_construction(made, device=self.dense.device)
        agreement = compare_models(self.dense.model, mixture, self.dense.batches)
        reason = broken_limit(self._final_measures(agreement), self._final_limits())
        if reason is not None:
            raise RunFailedError(f"the layers passed, but the mixture did not: {reason}")
        first = logits_sha256(mixture, self.dense.batches)
        del mixture  # to hold one mixture in memory at a time
        again = load_for_construction(made, device=self.dense.device)
        reload_equal = logits_sha256(again, self.dense.batches) == first
        return agreement.record(self.plan.recipe.source.name, reload_equal=reload_equal)

    def _final_measures(self, agreement: Agreement) -> dict[str, float]:
        return {**agreement.measured(), "exact_logit_difference": agreement.relative_difference}

    def _final_limits(self) -> dict[str, float]:
        experts = self.plan.recipe.settings.experts
        if isinstance(experts, FineTunes) or not experts.are_plain:
            return self.request.limits.drift()
        return {"exact_logit_difference": self.request.limits.max_difference, **self.request.limits.drift()}

    def _verdicts(self, tests: LayerTests, plan: UpcyclePlan, copied: bool) -> list[LayerVerdict]:
        shape = plan.recipe.shape
        if not self.request.check:
            return [
                LayerVerdict(layer=layer, state="converted" if layer in shape.layers else "dense")
                for layer in range(shape.num_layers)
            ]
        verdicts = tests.verdicts(shape.num_layers)
        return _as_copies(verdicts, str(plan.config.model_type)) if copied else verdicts

    def _certify(
        self, plan: UpcyclePlan, directory: Path, layers: list[LayerVerdict], exactness: list[ExactnessRecord]
    ) -> Certificate:
        return certify(
            directory,
            name=self.name,
            kind="upcycled",
            model_type=str(plan.config.model_type),
            settings=self.request.model_dump(mode="json"),
            sources=(plan.recipe.source, *plan.recipe.fine_tunes),
            layers=layers,
            tensors=list(plan.tensors),
            exactness=exactness,
        )


def _as_copies(verdicts: list[LayerVerdict], model_type: str) -> list[LayerVerdict]:
    note = f"; {model_type} has no dense layers, so that it is made of copies of the dense network"
    return [
        verdict if verdict.reason is None else verdict.model_copy(update={"reason": verdict.reason + note})
        for verdict in verdicts
    ]


def _reasons(tests: LayerTests) -> str:
    return "; ".join(f"layer {layer}: {reason}" for layer, reason in sorted(tests.reasons.items()))


def _move_into(made: Path, directory: Path) -> None:
    for path in made.iterdir():
        path.rename(directory / path.name)
    shutil.rmtree(made.parent)


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Build the mixture of `certificate` again in a temporary folder, and compare tensors, verdicts and exactness.

    `paths` maps the sources' names to folders, and "texts" to a moved file of texts. Needs disk space for one more
    mixture.
    """
    dense, *fine_tunes = [paths[source.name] for source in certificate.sources]
    request = UpcycleRequest.model_validate(certificate.settings)
    texts = str(paths["texts"]) if "texts" in paths else request.texts
    request = request.model_copy(update={"fine_tunes": [str(path) for path in fine_tunes], "texts": texts})
    with tempfile.TemporaryDirectory(prefix="moe-ray-verify-") as folder:
        again = Path(folder) / directory.resolve().name
        try:
            found = build_upcycle(dense, again, request)
        except RunFailedError as error:
            yield Finding(what="conversion", holds=False, detail=str(error))
            return
        yield compare_tensors(TensorReader(directory), TensorReader(again), certificate.tensors)
        yield compare_layers(certificate.layers, found.layers)
        yield from compare_exactness(certificate.exactness, _renamed(certificate, found))


def _renamed(certificate: Certificate, found: Certificate) -> list[ExactnessRecord]:
    """Return the new records under the sources' old names, which may differ for moved folders."""
    names = {new.name: old.name for new, old in zip(found.sources, certificate.sources, strict=True)}
    return [record.model_copy(update={"against": names[record.against]}) for record in found.exactness]
