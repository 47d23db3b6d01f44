"""How well a mixture's gate tells real prompts of two domains apart, also those of sources that it never met.

    python -m benchmarks.moe_gate --data DATA [--domains code legal] [--bases embedding-stories] [--limit 500]

DATA is a folder with the public data sets (`router_accuracy/sources.py` names the files, two sources of each domain).
A gate is trained on one source of each domain and tested on held-back texts of the same source and on the whole other
source; then the other way round. The base models, whose input embeddings it reads, are `router_accuracy/routers.py`'s:
none of them is a causal model of a useful size, and the tables say what they are. Each first gate is put into a mixture
of two perturbed copies of its base, too: the command exits with 1 when the gate in there says otherwise than outside,
or when an expert alone is not its source.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.machine import machine_line
from benchmarks.router_accuracy.routers import Recipes
from benchmarks.router_accuracy.sources import COLUMNS, DOMAINS, FILES, OWN_SOURCES
from moe_ray import architectures
from moe_ray.moe.merge.build import build_merge
from moe_ray.moe.merge.gate import TrainedGate
from moe_ray.moe.merge.gate_training import read_gate_texts, train_gate
from moe_ray.moe.merge.plan import plan_merge
from moe_ray.moe.merge.request import GateConfig, GateTextsConfig

BASES = ("embedding-stories", "embedding-random", "embedding-minilm")
# No text is cut, so that the gate in a mixture, which reads whole prompts, sees the same ones.
MAX_TOKENS = 8192
METHODS = {"MLP": ("train", (256,)), "linear": ("train", ()), "ridge": ("ridge", ())}
MAX_PROBABILITY_DIFFERENCE = 1e-4
NOISE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One gate: what it reads, how it is fitted, and which source of each domain it learns from."""

    base: str
    method: str
    learned: int


def gate_config(case: Case, data: Path, base_model: str, arguments: argparse.Namespace) -> GateConfig:
    """Return the gate's config, with the sources that `case` does not learn from held out."""
    texts = {}
    for domain in arguments.domains:
        texts[domain] = tuple(
            GateTextsConfig(
                source=str((data / FILES[source]).resolve()),
                column=COLUMNS[source],
                use="train" if at == case.learned else "test",
                max_texts=arguments.limit,
            )
            for at, source in enumerate(OWN_SOURCES[domain])
        )
    method, hidden_sizes = METHODS[case.method]
    return GateConfig.model_validate(
        {
            "base_model": base_model,
            "data": texts,
            "method": method,
            "hidden_sizes": hidden_sizes,
            "max_tokens": MAX_TOKENS,
            "epochs": arguments.epochs,
            "seed": arguments.seed,
        }
    )


def row(case: Case, gate: TrainedGate, domains: Sequence[str]) -> str:
    """One line of the table."""
    info, held_out = gate.info, gate.info.held_out
    assert held_out is not None
    learned = ", ".join(OWN_SOURCES[domain][case.learned] for domain in domains)
    num_train = sum(info.num_texts["train"].values())
    figures = [
        (f"{result.macro_f1:.4f}", f"{result.mean_confidence:.3f}") for result in (info.validation, info.test, held_out)
    ]
    columns = "  ".join(f"{f1:>7} ({confidence})" for f1, confidence in figures)
    return f"{case.base:18}{case.method:8}{learned:30}{num_train:7,}  {columns}{held_out.n:9,}{info.train_s:8.2f}"


def broken_claims(gate: TrainedGate, config: GateConfig, base: Path, folder: Path) -> Iterator[str]:
    """Merge perturbed copies of `base` behind `gate`, and yield what does not hold of the mixture."""
    models = {expert: _perturbed(base, folder / expert, seed) for seed, expert in enumerate(gate.record.experts)}
    gate.save(folder / "gate")
    certificate = build_merge(plan_merge(models, folder / "gate"), folder / "mixture")
    for one in certificate.exactness:
        if one.max_logit_difference or not one.reload_equal:
            yield f"expert {one.against} alone: a logit differs by {one.max_logit_difference:.3g}"
    architectures.register()
    mixture = transformers.AutoModelForCausalLM.from_pretrained(folder / "mixture").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "mixture")
    texts = read_gate_texts(config, base)
    held_out = [text for part in texts.held_out.values() for text in part]
    rows = [mixture.get_gating_probs(text.text, tokenizer=tokenizer)[0] for text in held_out]
    chosen = torch.stack(rows).argmax(dim=1).tolist()
    accuracy = sum(
        gate.record.experts[place] == text.label for place, text in zip(chosen, held_out, strict=True)
    ) / len(held_out)
    confidence = torch.stack(rows).max(dim=1).values.mean().item()
    told = gate.info.held_out
    assert told is not None
    if abs(confidence - told.mean_confidence) > MAX_PROBABILITY_DIFFERENCE:
        yield f"the gate is {confidence:.6f} sure in the mixture, and {told.mean_confidence:.6f} outside"
    if abs(accuracy - told.accuracy) * len(held_out) > 0.5:
        yield f"the gate is right on {accuracy:.4f} in the mixture, and on {told.accuracy:.4f} outside"


def _perturbed(base: Path, directory: Path, seed: int) -> Path:
    shutil.copytree(base, directory)
    random = torch.Generator().manual_seed(seed)
    tensors = load_file(directory / "model.safetensors")
    for name in sorted(tensors):
        if ".mlp." in name:
            tensors[name] += NOISE * torch.randn(tensors[name].shape, generator=random)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def measure(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Train and test all gates, print a line for each, and return the claims that are broken."""
    recipes, broken = Recipes(arguments.data, folder / "bases"), list[str]()
    cases = [Case(base=base, method=how, learned=at) for base in arguments.bases for how in METHODS for at in (0, 1)]
    for case in cases:
        base_model = str(recipes.config(case.base).base_model)
        config = gate_config(case, arguments.data, base_model, arguments)
        gate = train_gate(config, Path.cwd(), device="cpu")
        print(row(case, gate, arguments.domains), flush=True)
        if case.learned == 0 and case.method == next(iter(METHODS)):
            broken += broken_claims(gate, config, Path(base_model), folder / f"merged-{case.base}")
    return broken


def main() -> int:
    """Print the table; return the exit status."""
    arguments = _arguments()
    print(machine_line("torch", "transformers"))
    print(
        f"experts: {', '.join(arguments.domains)}; at most {arguments.limit} texts of a source; macro-F1 (confidence)"
    )
    parts = "  ".join(f"{name:>15}" for name in ("validation", "test", "held-out source"))
    print(f"{'input embeddings':18}{'gate':8}{'learned from':30}{'texts':>7}  {parts}{'texts':>9}{'seconds':>8}")
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="moe-gate-") as name:
        broken = measure(arguments, Path(name))
    print("\n".join([*broken, f"{len(broken)} claims failed"]))
    return 1 if broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domains", nargs=2, choices=DOMAINS, default=["code", "legal"])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES[:2]))
    parser.add_argument("--limit", type=int, default=500, help="texts of a source")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
