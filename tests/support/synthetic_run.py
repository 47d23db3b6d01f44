"""A made-up run of any size, whole on disk, for tests of the comparison and the report."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from moe_ray.domains.example import Example
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.scoring.score import Metric, Score
from moe_ray.store.answers import Answer
from moe_ray.store.records import GivenUp, Manifest, ProbeTiming, ReplicaTelemetry, SessionRecord
from moe_ray.store.run_directory import RunDirectory

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
CUT_EXAMPLE, NUM_CUT = "legal-00002", 37
LABELS = ("yes", "no", "maybe")
SKILL_AT_HOME, SKILL_AWAY = 0.8, 0.5
METRICS = {
    "biomedical": (
        Metric(name="accuracy", definition="share of decisions equal to the gold label", binary=True),
        Metric(name="macro_f1", definition="mean F1 over yes, no and maybe", aggregation="macro_f1"),
    ),
    "legal": (Metric(name="rouge_l", definition="ROUGE-L F-measure against the reference"),),
    "code": (
        Metric(name="exact_match", definition="share of programs equal to the reference", binary=True),
        Metric(name="pass@1", definition="share of tasks whose tests pass", binary=True),
    ),
}
BITS = Metric(
    name="bits_per_byte",
    definition="bits needed for each byte of the reference",
    higher_is_better=False,
    unit="bits/byte",
)
ALL_METRICS = {metric.name: metric for metrics in METRICS.values() for metric in metrics} | {BITS.name: BITS}


def model_names(num_models: int) -> list[str]:
    """The baseline and three experts (or one, of two models), then models without a role."""
    names = ["general-7b", "biomed-expert", "legal-expert", "code-expert"]
    return (names + [f"other-model-with-a-long-name-{index}" for index in range(8)])[:num_models]


def synthetic_run(path: Path, *, num_models: int, num_answers: int) -> tuple[RunDirectory, list[Score]]:
    """Write a run with about `num_answers` answers, all but its scores, and return it with them."""
    run = RunDirectory(path)
    run.prepare()
    models = model_names(num_models)
    domains = ["biomedical"] if num_models == 2 else list(METRICS)
    num_examples = max(1, num_answers // (len(models) * len(domains)))
    scores: list[Score] = []
    for domain in domains:
        examples = [_example(domain, index) for index in range(num_examples)]
        run.write_examples(domain, examples)
        for model in models:
            run.write_shard([_answer(model, example) for example in examples])
            for example in examples:
                scores.extend(_scores(model, example))
    for model in models:
        run.write_telemetry(_telemetry(model, num_examples * len(domains)))
    run.write_manifest(_manifest(models, domains))
    return run, scores


def _rng(*names: str) -> np.random.Generator:
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _example(domain: str, index: int) -> Example:
    rng = _rng(domain, str(index))
    body = " ".join(rng.choice(["patient", "court", "holds", "that", "the", "return", "value", "dose"], 120))
    prompt = Prompt(messages=(Message(role="user", content=f"{domain} question {index}?\n\n{body}"),))
    gold = str(rng.choice(LABELS, p=[0.55, 0.34, 0.11]))
    return Example(
        id=f"{domain}-{index:05d}",
        domain=domain,
        prompts={"chat": prompt},
        reference=f"{gold}. The reference answer of {domain} {index}.",
        grading={"gold": gold},
    )


def _answer(model: str, example: Example) -> Answer:
    rng = _rng(model, example.id)
    total_s = float(rng.lognormal(0.2, 0.5))
    odd = example.id.endswith("00001")
    failed = example.id.endswith("00003") and model != "general-7b"
    words = " ".join(rng.choice(["because", "evidence", "suggests", "therefore", "return", "x"], 60))
    return Answer(
        key=hashlib.sha256(f"{model}/{example.id}".encode()).hexdigest()[:32],
        kind="generate",
        model=model,
        domain=example.domain,
        example_id=example.id,
        sample_index=0,
        messages=json.dumps([{"role": "user", "content": example.prompts["chat"].messages[0].content}]),
        settings=json.dumps({"max_new_tokens": 256, "temperature": 0.0}),
        text="" if failed else f"{EVIL if odd else ''} {words}",
        token_ids=list(range(60)),
        finish_reason="error" if failed else "stop",
        num_prompt_tokens=150,
        num_truncated_tokens=NUM_CUT if example.id == CUT_EXAMPLE else 0,
        num_completion_tokens=60,
        loglikelihoods=None,
        loglikelihood_tokens=None,
        error="the prompt does not fit the context" if failed else None,
        batch_rows=16,
        time_to_first_token_s=total_s / 10,
        total_s=total_s,
        replica=f"{model}-0",
        shard=f"{model}-{example.domain}",
        finished_at=1.0,
    )


def _scores(model: str, example: Example) -> Iterator[Score]:
    rng = _rng("score", model, example.id)
    skill = SKILL_AT_HOME if model.startswith(example.domain[:5]) else SKILL_AWAY
    gold = str(example.grading["gold"])
    right = bool(rng.random() < skill)
    label = gold if right else str(rng.choice([name for name in (*LABELS, "unparsed") if name != gold]))
    failed = example.id.endswith("00003") and model != "general-7b"
    for metric in (*METRICS[example.domain], BITS):
        value = float(right) if metric.binary or metric.aggregation == "macro_f1" else float(rng.beta(5 * skill, 4))
        value = 2 - value if metric is BITS else value
        counted = metric.aggregation == "macro_f1" or metric.name == "accuracy"
        yield Score(
            model=model,
            domain=example.domain,
            example_id=example.id,
            metric=metric.name,
            value=None if failed else value,
            reason="no answer: the prompt does not fit the context" if failed else None,
            weight=float(_rng("bytes", example.id).integers(20, 200)) if metric is BITS else 1.0,
            label=label if counted and not failed else None,
            gold=gold if counted else None,
        )


def _telemetry(model: str, num_answers: int) -> ReplicaTelemetry:
    rng = _rng("telemetry", model)
    gib = 1 << 30
    probe = [
        ProbeTiming(
            example_id=str(index),
            num_prompt_tokens=150,
            num_completion_tokens=60,
            time_to_first_token_s=0.05,
            total_s=float(rng.uniform(0.6, 0.9)),
        )
        for index in range(3)
    ]
    return ReplicaTelemetry(
        replica=f"{model}-0",
        model=model,
        session="s1",
        node="node",
        pid=1,
        device="cuda:0",
        started_at=1.0,
        load_s=float(rng.uniform(5, 30)),
        unload_s=float(rng.uniform(0.5, 2)),
        busy_s=num_answers * float(rng.uniform(0.05, 0.4)),
        num_answers=num_answers,
        num_prompt_tokens=150 * num_answers,
        num_completion_tokens=60 * num_answers,
        weights_bytes=int(rng.uniform(5, 15) * gib),
        peak_resident_bytes=int(rng.uniform(2, 4) * gib),
        peak_torch_bytes=int(rng.uniform(16, 20) * gib),
        peak_gpu_process_bytes=int(rng.uniform(20, 24) * gib),
        gpu_energy_j=float(rng.uniform(1e4, 1e5)),
        probe=probe,
        end="finished",
    )


def _manifest(models: list[str], domains: list[str]) -> Manifest:
    experts = {"biomedical": "biomed-expert", "legal": "legal-expert", "code": "code-expert"}
    prompt = {
        "chat": {
            "example": "00000",
            "stop": ["\n\n"],
            "messages": [{"role": "user", "content": f"Question: ... {EVIL}"}],
        }
    }
    return Manifest(
        name="synthetic-example",
        moe_ray_version="0.1.0",
        created_at=1_760_000_000.0,
        identity={"decoding": {"max_new_tokens": 256, "temperature": 0.0}},
        models={name: {"path": f"./{name}", "dtype": "bfloat16", "notes": []} for name in models},
        domains={name: {"task": name, "notes": ["All texts of this domain are synthetic."]} for name in domains},
        prompts=dict.fromkeys(domains, prompt),
        baseline="general-7b",
        experts={name: experts[name] for name in domains},
        notes=["The legal expert's pretraining is reported to include Law Stack Exchange."],
        sandbox={"weak": True, "missing": ["network namespace"]},
        sessions=[
            SessionRecord(
                session="s1",
                command=["moe-ray", "evaluate", "example.yaml"],
                started_at=1_760_000_000.0,
                ended_at=1_760_000_900.0,
                status="incomplete",
                wall_s=900.0,
                hardware={"gpus": ["NVIDIA H200"]},
                versions={"python": "3.11.9", "torch": "2.13.0"},
            )
        ],
        given_up=[GivenUp(model=models[-1], num_cells=7, reason="out of memory three times")],
    )
