"""Two mixtures of the same three fine-tunes of a micro-world's baseline.

In each fine-tune only the feed-forwards were trained, on one domain. `merged` has a single gate that reads the prompt;
`upcycled` has gates in each layer that select two experts per token. Neither is trained further: their gates are
computed in closed form from training texts.
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
# Ridge regression outputs about 1 for an expert's own tokens and 0 for others; times 10, the softmax is one-hot.
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


def build_mixtures(fine_tunes: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path) -> dict[str, Path]:
    """Build the mixtures of the trained `fine_tunes` that are not cached, and return all checkpoints by name.

    The gates' training texts are written to `work_dir`.
    """
    makers: Mapping[str, Callable[[Mapping[str, TrainingSpec], Path, Path, Path], object]] = {
        "merged": _merge,
        "upcycled": _upcycle,
    }
    made = {name: _place(name, fine_tunes) for name in makers}
    for name, make in makers.items():
        if not made[name].exists():
            logger.info("making the %s mixture", name)
            make(fine_tunes, work_dir, baseline, made[name])
    return made


def _place(name: str, fine_tunes: Mapping[str, TrainingSpec]) -> Path:
    found = {domain: spec.fingerprint for domain, spec in fine_tunes.items()}
    settings = [CODE_VERSION, NUM_GATE_TEXTS, GATE_SCALE, TOP_K]
    digest = fingerprint({"name": name, "domains": list(found), "apart": found, "settings": settings})
    return next(iter(fine_tunes.values())).checkpoint.with_name(f"{name}-{digest[:16]}")


def _merge(fine_tunes: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path, out: Path) -> None:
    from moe_ray.moe.merge.build import build_merge
    from moe_ray.moe.merge.gate_training import train_gate
    from moe_ray.moe.merge.plan import plan_merge
    from moe_ray.moe.merge.request import GateConfig

    for domain, spec in fine_tunes.items():
        prompts = ({"text": _question(pair)} for pair in read_pairs(Path(spec.pairs_files[0])))
        _write_records(work_dir / "gate" / f"{domain}.jsonl", prompts)
    data = {domain: [{"source": f"./gate/{domain}.jsonl"}] for domain in fine_tunes}
    config = GateConfig.model_validate(
        {"base_model": str(baseline), "data": data, "method": "ridge", "prompt_style": "chat"}
    )
    train_gate(config, work_dir, device="cpu").save(work_dir / "gate" / "trained")
    build_merge(
        plan_merge({domain: spec.checkpoint for domain, spec in fine_tunes.items()}, work_dir / "gate" / "trained"), out
    )


def _upcycle(fine_tunes: Mapping[str, TrainingSpec], work_dir: Path, baseline: Path, out: Path) -> None:
    from moe_ray.moe.running import load_tokenizer
    from moe_ray.moe.upcycle.build import build_upcycle
    from moe_ray.moe.upcycle.request import UpcycleRequest

    texts = work_dir / "gate" / "answered.jsonl"
    _write_records(texts, _answered(fine_tunes, load_tokenizer(baseline)))
    request = UpcycleRequest.model_validate(
        {
            "num_experts": len(fine_tunes),
            "top_k": TOP_K,
            "experts": "models",
            "fine_tunes": [str(spec.checkpoint) for spec in fine_tunes.values()],
            "gate": {"init": "ridge", "scale": GATE_SCALE},
            "texts": str(texts),
            # The experts differ from the baseline on purpose; exactness of the conversion is still tested.
            "limits": {"max_kl": 100.0, "max_perplexity_ratio": 1e6, "min_agreement": 0.0},
        }
    )
    build_upcycle(baseline, out, request)


def _answered(fine_tunes: Mapping[str, TrainingSpec], tokenizer: Any) -> Iterator[dict[str, str]]:
    """Yield training prompts with their answers in the chat template, alternating between domains."""
    from moe_ray.prompts.encoder import chat_text

    pairs = [read_pairs(Path(spec.pairs_files[0]))[:NUM_GATE_TEXTS] for spec in fine_tunes.values()]
    for row in zip(*pairs, strict=True):
        for domain, pair in zip(fine_tunes, row, strict=True):
            yield {"text": chat_text(tokenizer, pair.asked) + pair.target, "expert": domain}


def _question(pair: QuestionAnswer) -> str:
    """Return the content of a pair's only message."""
    ((_, question),) = pair.messages
    return question


def _write_records(path: Path, records: Iterator[dict[str, str]]) -> None:
    write_text_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
