"""Build a mixture of separately trained experts, and compare each expert with its own dense checkpoint."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_ray.checkpoints.source import read_config
from moe_ray.checkpoints.tensors import TensorReader
from moe_ray.device import visible_device
from moe_ray.errors import RunFailedError
from moe_ray.files import require_free, require_space, write_directory_atomically
from moe_ray.moe.btx.state import mixture_layers
from moe_ray.moe.certificate import Certificate, ExactnessRecord, LayerVerdict, MixtureKind, certify
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.gates import fitted_gates
from moe_ray.moe.running import TokenBatch, load_for_construction, load_tokenizer, token_batches
from moe_ray.moe.upcycle.convert import convert, write_mixture
from moe_ray.moe.upcycle.experts import FineTunes, Gates, random_gates
from moe_ray.moe.upcycle.plan import UpcyclePlan, plan_upcycle
from moe_ray.moe.upcycle.request import GateRequest, UpcycleSettings
from moe_ray.moe.verify import GATE, Finding, compare_exactness, compare_layers, compare_tensors

KIND: MixtureKind = "trained_apart"
DEFAULT_SCALE = {"random": 0.02, "prompts": 1.0, "ridge": 8.0}
MAX_LOGIT_DIFFERENCE = 1e-4  # float32 logits up to a few dozen, summed in another order
MAX_TEXT_TOKENS = 256
MAX_GATE_TOKENS = 50_000


def plan_btx(anchor: Path, experts: Sequence[Path], *, top_k: int, seed: int) -> UpcyclePlan:
    """Plan the mixture of the experts, in their order; nothing is written.

    Raises `ModelError` for experts that differ from the anchor outside their feed-forwards.
    """
    settings = UpcycleSettings(
        num_experts=len(experts), top_k=top_k, experts=FineTunes(model_dirs=tuple(experts)), seed=seed
    )
    plan = plan_upcycle(anchor, settings)
    plan.config.expert_names = [path.name for path in experts]
    return plan


def build_btx(
    plan: UpcyclePlan, out_dir: Path, *, gate: GateRequest, texts: Mapping[str, Sequence[str]], settings: Any
) -> Certificate:
    """Write the mixture of `plan` to `out_dir`, with certificate and card, and return the certificate.

    Gates are computed from each expert's `texts`; `settings` is stored in the certificate. Raises `ModelError` if
    `out_dir` is not empty, and `RunFailedError` if an expert alone differs from its dense checkpoint.
    """
    require_free(out_dir)
    require_space(out_dir, plan.num_bytes)
    certificates: list[Certificate] = []

    def write(directory: Path) -> None:
        write_mixture(plan, directory, _gates(plan, gate, texts))
        certificates.append(_certify(plan, directory, settings, name=out_dir.name))

    write_directory_atomically(out_dir, write)
    return certificates[0]


def _certify(plan: UpcyclePlan, directory: Path, settings: Any, *, name: str) -> Certificate:
    recipe = plan.recipe
    exactness = experts_exactness(directory, {source.name: source.directory for source in recipe.fine_tunes})
    require_exact(exactness)
    return certify(
        directory,
        name=name,
        kind=KIND,
        model_type=str(plan.config.model_type),
        settings=settings,
        sources=(recipe.source, *recipe.fine_tunes),
        layers=layer_verdicts(plan.config),
        tensors=list(plan.tensors),
        exactness=exactness,
    )


def require_exact(records: Sequence[ExactnessRecord]) -> None:
    """Raise `RunFailedError` if an expert alone, or the reloaded mixture, has other logits."""
    differing = [one for one in records if not one.max_logit_difference <= MAX_LOGIT_DIFFERENCE]
    if differing:
        named = ", ".join(f"{one.against} by {one.max_logit_difference:.3g}" for one in differing)
        raise RunFailedError(f"single experts differ from their own checkpoints: {named}")
    if not all(one.reload_equal for one in records):
        raise RunFailedError("the mixture, loaded again, gives other logits")


def layer_verdicts(config: Any) -> list[LayerVerdict]:
    """Return a verdict for each decoder layer: converted if it has experts, else dense."""
    converted = mixture_layers(config)
    layers = range(config.num_hidden_layers)
    return [LayerVerdict(layer=layer, state="converted" if layer in converted else "dense") for layer in layers]


def _gates(plan: UpcyclePlan, gate: GateRequest, texts: Mapping[str, Sequence[str]]) -> Gates:
    """Return gates from the anchor's hidden states on each expert's texts, or random gates."""
    settings, scale = plan.recipe.settings, gate.scale or DEFAULT_SCALE[gate.init]
    if gate.init == "random":
        return random_gates(settings.num_networks, int(plan.config.hidden_size), settings.seed, scale)
    directory = plan.recipe.source.directory
    model = load_for_construction(directory, device=visible_device())
    batches = _labelled_batches(directory, model.config, list(texts.values()))
    layers, num_experts = plan.recipe.shape.layers, settings.num_networks
    made = fitted_gates(gate.init, model, batches, layers, num_experts=num_experts, penalty=gate.penalty, scale=scale)
    return made.__getitem__


def _labelled_batches(directory: Path, config: Any, texts: Sequence[Sequence[str]]) -> list[TokenBatch]:
    """Return the first tokens of each expert's texts, the same number for each expert."""
    tokenizer = load_tokenizer(directory)
    batches: list[TokenBatch] = []
    for expert, own in enumerate(texts):
        batches += token_batches(
            tokenizer,
            own,
            vocabulary_size=int(config.vocab_size),
            max_text_tokens=min(MAX_TEXT_TOKENS, int(config.max_position_embeddings)),
            max_tokens=MAX_GATE_TOKENS // len(texts),
            labels=[expert] * len(own),
        )
    return batches


TRAINED = ", then trained in the mixture"


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Mix the experts again and compare all untrained tensors, then each expert alone with its own checkpoint.

    `paths` maps the sources' names to folders. Gates and finetuned experts depend on texts; the file hashes cover
    them. Needs disk space for one more mixture.
    """
    config = read_config(directory)
    anchor, *experts = [source.name for source in certificate.sources]
    plan = plan_btx(paths[anchor], [paths[name] for name in experts], top_k=config.num_experts_per_tok, seed=0)
    kept = [origin for origin in certificate.tensors if origin.how != GATE and not origin.how.endswith(TRAINED)]
    with tempfile.TemporaryDirectory(prefix="moe-ray-verify-") as folder:
        again = Path(folder) / "again"
        convert(plan, again)
        yield compare_tensors(TensorReader(directory), TensorReader(again), kept)
    yield compare_layers(certificate.layers, layer_verdicts(config))
    found = experts_exactness(directory, {name: paths[name] for name in experts})
    yield from compare_exactness(certificate.exactness, found)
