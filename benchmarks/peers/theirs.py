"""lm_eval's side: tasks as YAML with local JSON lines, the command, and what it answered.

The prompts are those of moe_ray's examples, so that both sides are asked the same by construction; what is compared
is all that follows: chat template, special tokens, batches, decoding, ends, log-likelihoods, extraction, scores.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.environment import Setting
from benchmarks.peers.ours import BATCH_ROWS
from moe_ray.config.schema import PromptStyle
from moe_ray.domains.example import Example

GENERATE, CHOICES, REFERENCE = "generate", "choices", "reference"
RECORDER = Path(__file__).with_name("recorder.py")
SCORER = "pass_rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One domain's examples for one model, as tasks of lm_eval. `parts` are of GENERATE, CHOICES and REFERENCE."""

    domain: str
    style: PromptStyle
    examples: Sequence[Example]
    max_new_tokens: int
    parts: tuple[str, ...]

    def task(self, part: str) -> str:
        return f"{self.domain}-{part}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A text that lm_eval returned, and the token ids behind it, end and padding tokens included."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirRun:
    """A run of lm_eval that has ended. Seconds of the whole process, and inside loading, generating and measuring."""

    folder: Path
    record: dict[str, Any]
    wall_s: float

    def samples(self, task: str) -> dict[str, dict[str, Any]]:
        """Return lm_eval's own log of a task, by example."""
        (path,) = self.folder.rglob(f"samples_{task}_20*.jsonl")
        lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return {line["doc"]["id"]: line for line in lines}

    def score(self, task: str, metric: str) -> float:
        """Return a metric of a task as lm_eval reports it."""
        (path,) = self.folder.rglob("results_*.json")
        return float(json.loads(path.read_text(encoding="utf-8"))["results"][task][f"{metric},none"])

    def spoken(self, task: str) -> dict[str, Spoken]:
        """Return the generated texts of a task, by example."""
        rows = {(row["prompt"], row["max_new_tokens"], tuple(row["stop"])): row for row in self.record["rows"]}
        found = {}
        for example_id, sample in self.samples(task).items():
            prompt, asked = (sample["arguments"]["gen_args_0"][f"arg_{place}"] for place in (0, 1))
            row = rows[prompt, asked["max_gen_toks"], tuple(asked["until"])]
            found[example_id] = Spoken(text=sample["resps"][0][0], token_ids=tuple(row["token_ids"]))
        return found

    def loglikelihoods(self, task: str) -> dict[str, list[float]]:
        """Return the log-likelihoods of a task, in nats, one of each continuation, by example."""
        return {
            example_id: [float(answers[0][0]) for answers in sample["resps"]]
            for example_id, sample in self.samples(task).items()
        }


def write_tasks(folder: Path, asked: Sequence[Asked]) -> list[str]:
    """Write the YAML and the data of all tasks into `folder`; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{SCORER}.py").write_text(RECORDER.with_name(f"{SCORER}.py").read_text(encoding="utf-8"), "utf-8")
    names = []
    for one in asked:
        for part in one.parts:
            name = one.task(part)
            records = [_record(example, one.style) for example in one.examples]
            data = folder / f"{name}.jsonl"
            data.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
            (folder / f"{name}.yaml").write_text(_yaml_text(name, data, one, part), encoding="utf-8")
            names.append(name)
    return names


def _record(example: Example, style: PromptStyle) -> dict[str, Any]:
    prompt = example.prompts[style]
    choices = example.grading.get("choices")
    label = example.grading.get("label")
    return {
        "id": example.id,
        "prompt": "".join(message.content for message in prompt.messages),
        "choices": list(prompt.choices),
        "label": choices.index(label) if isinstance(choices, list) and isinstance(label, str) else 0,
        "reference": prompt.reference,
        "tests": example.grading.get("tests") or [],
    }


def _yaml_text(name: str, data: Path, asked: Asked, part: str) -> str:
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "doc_to_text": "prompt",
        "target_delimiter": "",
        "num_fewshot": 0,
        **_PARTS[part](asked),
    }
    text = yaml.safe_dump(task, sort_keys=False)
    # yaml cannot write a tag without a constructor of its own.
    return text.replace("process_results: FUNCTION", f"process_results: !function {SCORER}.process_results")


def _generate_part(asked: Asked) -> dict[str, Any]:
    first = asked.examples[0]
    part: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_target": "reference",
        "generation_kwargs": {
            "until": list(first.prompts[asked.style].stop),
            "max_gen_toks": asked.max_new_tokens,
            "do_sample": False,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    if first.grading.get("tests"):
        part |= {
            "unsafe_code": True,
            "process_results": "FUNCTION",
            "metric_list": [{"metric": "pass_at_1", "aggregation": "mean", "higher_is_better": True}],
        }
    return part


def _choices_part(_: Asked) -> dict[str, Any]:
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    return {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": metrics,
    }


def _reference_part(_: Asked) -> dict[str, Any]:
    # Its perplexity overflows on a random model, and its table cannot print that.
    metrics = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    return {"output_type": "loglikelihood", "doc_to_target": "reference", "metric_list": metrics}


_PARTS = {GENERATE: _generate_part, CHOICES: _choices_part, REFERENCE: _reference_part}


def evaluate(
    setting: Setting, checkpoint: Path, tasks_folder: Path, tasks: Sequence[str], out: Path, *, is_chat: bool
) -> TheirRun:
    """Run `lm_eval run --model hf` on `tasks` as a process of its own, on the CPU in float32.

    Raises `SystemExit` with the end of its output when it fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = out / "record.json"
    command = [
        *(str(setting.python), str(RECORDER), str(record), "run", "--model", "hf"),
        *("--model_args", f"pretrained={checkpoint.resolve()},dtype=float32"),
        *("--tasks", ",".join(tasks), "--include_path", str(tasks_folder), "--device", "cpu"),
        *("--batch_size", str(BATCH_ROWS), "--output_path", str(out), "--log_samples", "--confirm_run_unsafe_code"),
        *(["--apply_chat_template"] if is_chat else []),
    ]
    started = time.perf_counter()
    done = subprocess.run(
        command, env=dict(setting.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    wall_s = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit("\n".join(["lm_eval failed:", *done.stdout.splitlines()[-30:]]))
    return TheirRun(folder=out, record=json.loads(record.read_text(encoding="utf-8")), wall_s=wall_s)
