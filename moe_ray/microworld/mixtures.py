"""Two mixtures for a micro-world, of the same three fine-tunes of its baseline.

In each fine-tune the feed-forwards alone learned one domain. `merged` puts them behind one gate that reads the prompt;
`upcycled` makes them the experts of each layer, of which gates choose two for each token. Neither is trained further:
their gates are solved in closed form on training texts.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_ray.files import write_text_atomically
from moe_ray.fingerprint import fingerprint
from moe_ray.microworld.data import QuestionAnswer, read_pairs
from moe_ray.microworld.spec import TrainingSpec

logger = logging.getLogger(__name__)

# Part of both fingerprints: raise it when what is made changes.
CODE_VERSION = 1
NUM_GATE_TEXTS = 64
# Ridge regression gives an expert's own tokens about 1 and the others 0; a softmax of ten times that is nearly sure.
GATE_SCALE = 10.0
TOP_K = 2


def feed_forward_specs(baseline: TrainingSpec, experts: Mapping[str, TrainingSpec]) -> dict[str, TrainingSpec]:
    """Return, by domain, the training of the baseline's feed-forwards on that expert's pairs, in half its steps."""
    return {
        domain: replace(
            baseline,
            name=f"{domain}-feed-forwards",
            budget=replace(expert.budget, num_steps=expert.budget.num_steps // 2),
            pairs_files=expert.pairs_files,
            start_from=str(baseline.checkpoint),
        )
        for domain, expert in experts.items()
    }


def build_mixtures(apart: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path) -> dict[str, Path]:
    """Make what the cache lacks of the two mixtures of the trained `apart`, and return their checkpoints by name.

    What gates learn from is written into `work_dir`.
    """
    makers: Mapping[str, Callable[[Mapping[str, TrainingSpec], Path, Path, Path], object]] = {
        "merged": _merge,
        "upcycled": _upcycle,
    }
    made = {name: _place(name, apart) for name in makers}
    for name, make in makers.items():
        if not made[name].exists():
            logger.info("making the %s mixture", name)
            make(apart, work_dir, baseline, made[name])
    return made


def _place(name: str, apart: Mapping[str, TrainingSpec]) -> Path:
    found = {domain: spec.fingerprint for domain, spec in apart.items()}
    settings = [CODE_VERSION, NUM_GATE_TEXTS, GATE_SCALE, TOP_K]
    digest = fingerprint({"name": name, "domains": list(found), "apart": found, "settings": settings})
    return next(iter(apart.values())).checkpoint.with_name(f"{name}-{digest[:16]}")


def _merge(apart: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path, out: Path) -> None:
    from moe_ray.moe.merge.build import build_merge
    from moe_ray.moe.merge.gate_training import train_gate
    from moe_ray.moe.merge.plan import plan_merge
    from moe_ray.moe.merge.request import GateConfig

    for domain, spec in apart.items():
        prompts = ({"text": _question(pair)} for pair in read_pairs(Path(spec.pairs_files[0])))
        _write_records(work_dir / "gate" / f"{domain}.jsonl", prompts)
    data = {domain: [{"source": f"./gate/{domain}.jsonl"}] for domain in apart}
    config = GateConfig.model_validate(
        {"base_model": str(baseline), "data": data, "method": "ridge", "prompt_style": "chat"}
    )
    train_gate(config, work_dir, device="cpu", report=lambda _: None).save(work_dir / "gate" / "trained")
    build_merge(
        plan_merge({domain: spec.checkpoint for domain, spec in apart.items()}, work_dir / "gate" / "trained"), out
    )


def _upcycle(apart: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path, out: Path) -> None:
    from moe_ray.moe.running import load_tokenizer
    from moe_ray.moe.upcycle.build import build_upcycle
    from moe_ray.moe.upcycle.request import UpcycleRequest

    texts = work_dir / "gate" / "answered.jsonl"
    _write_records(texts, _answered(apart, load_tokenizer(baseline)))
    request = UpcycleRequest.model_validate(
        {
            "num_experts": len(apart),
            "top_k": TOP_K,
            "experts": "models",
            "fine_tunes": [str(spec.checkpoint) for spec in apart.values()],
            "gate": {"init": "ridge", "scale": GATE_SCALE},
            "texts": str(texts),
            # The experts are meant to answer otherwise than the baseline; that the conversion is exact is still tested.
            "limits": {"max_kl": 100.0, "max_perplexity_ratio": 1e6, "min_agreement": 0.0},
        }
    )
    build_upcycle(baseline, out, request)


def _answered(apart: Mapping[str, TrainingSpec], tokenizer: Any) -> Iterator[dict[str, str]]:
    """Yield training prompts with their answers, as the models read them: of each domain in turn."""
    from moe_ray.prompts.encoder import chat_text

    pairs = [read_pairs(Path(spec.pairs_files[0]))[:NUM_GATE_TEXTS] for spec in apart.values()]
    for row in zip(*pairs, strict=True):
        for domain, pair in zip(apart, row, strict=True):
            yield {"text": chat_text(tokenizer, pair.asked) + pair.target, "expert": domain}


def _question(pair: QuestionAnswer) -> str:
    """What the one message of a pair says."""
    ((_, question),) = pair.messages
    return question


def _write_records(path: Path, records: Iterator[dict[str, str]]) -> None:
    write_text_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
