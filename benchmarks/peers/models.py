"""The models that both sides load, made on the spot: random Llamas of about 30 million parameters, and one trained.

A random Llama with wide weights writes text without order and without repetition. Two checkpoints share all weights
but the end token's row of the output matrix: `running-on` never ends, and `stopping` ends by chance, after
`MEAN_LENGTH` tokens in the mean. Prompts are then chosen so that its answers are as long as MBPP's references.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.lengths import choose, reference_lengths
from moe_ray.domains.example import Record
from moe_ray.microworld.build import BASELINE, training_specs
from moe_ray.microworld.data import BOS, EOS, load_tokenizer, write_world
from moe_ray.microworld.generators import generate_code
from moe_ray.microworld.spec import Shape
from moe_ray.microworld.worlds import DomainSize, WorldSize

STOPPING, RUNNING_ON, GENERALIST = "stopping", "running-on", "generalist"
PROMPTS_FILE = "prompts.jsonl"
CONTEXT_TOKENS = 1024
LONGEST_ANSWER = 256
MEAN_LENGTH = 80
# Times 1/sqrt(hidden size): so wide that no text repeats itself, and that rounding rarely decides on a token.
INITIAL_GAIN = 1.13
CALIBRATION_ROWS, CALIBRATION_TOKENS = 16, 48
CANDIDATE_BATCH_ROWS = 32
GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the comparison is. `num_candidates` prompts are answered, and `num_prompts` of them chosen."""

    world: WorldSize
    shape: Shape
    num_prompts: int
    num_candidates: int


FULL = Scale(
    world="demo",
    shape=Shape(hidden_size=512, intermediate_size=1408, num_layers=9, num_heads=8),
    num_prompts=96,
    num_candidates=480,
)
QUICK = Scale(
    world="tiny",
    shape=Shape(hidden_size=64, intermediate_size=128, num_layers=4, num_heads=4),
    num_prompts=12,
    num_candidates=48,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What was made: checkpoints by name, the chosen prompts, and the folder of the micro-world's test records."""

    checkpoints: dict[str, Path]
    prompts_file: Path
    test_records: Path

    @property
    def end_token_id(self) -> int:
        """The end token of the random models."""
        return int(json.loads((self.checkpoints[STOPPING] / "config.json").read_text("utf-8"))["eos_token_id"])


def make_materials(folder: Path, scale: Scale) -> Materials:
    """Make below `folder` what is not there yet; a second call returns at once."""
    world = folder / "world"
    write_world(world / "data", scale.world)
    # It is right now and then; the experts always are, and equal scores of 1 would say little.
    spec = training_specs(world, scale.world)[BASELINE]
    if not spec.checkpoint.is_dir():
        from moe_ray.microworld.training import train_model

        print("training the micro-world's generalist", flush=True)
        train_model(spec)
    checkpoints = {name: folder / "models" / name for name in (RUNNING_ON, STOPPING)}
    checkpoints[GENERALIST] = spec.checkpoint
    prompts_file = folder / PROMPTS_FILE
    if not prompts_file.is_file():
        print("making the random models, and choosing prompts by the lengths of their answers", flush=True)
        candidates = candidate_prompts(scale.num_candidates)
        _make_random_models(checkpoints, world / "training" / "tokenizer.json", scale.shape, candidates)
        chosen = _chosen_prompts(checkpoints[STOPPING], candidates, scale.num_prompts)
        prompts_file.write_text("".join(json.dumps(prompt) + "\n" for prompt in chosen), encoding="utf-8")
    return Materials(checkpoints=checkpoints, prompts_file=prompts_file, test_records=world / "data" / "test")


def candidate_prompts(num: int) -> list[dict[str, str]]:
    """Return prompts of MBPP's kind, with none, one or two solved tasks in front, and a reference solution each."""
    records = generate_code(DomainSize(num_facts=160, num_train=1, num_test=num)).test
    prompts = []
    for index, record in enumerate(records):
        shots = [records[(index + step) % num] for step in range(1, index % 3 + 1)]
        solved = "".join(f"{_task_text(shot)}{shot['code']}\n[DONE]\n\n" for shot in shots)
        prompts.append({"id": f"p{index}", "question": solved + _task_text(record), "reference": str(record["code"])})
    return prompts


def _task_text(record: Record) -> str:
    tests = "\n".join(record["test_list"])
    return f"here is your task: {record['text']} your code should pass these tests:\n\n{tests}\n[BEGIN]\n"


def _make_random_models(
    checkpoints: dict[str, Path], tokenizer_file: Path, shape: Shape, candidates: Sequence[dict[str, str]]
) -> None:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = bos_tokenizer(tokenizer_file)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(_llama_config(tokenizer, shape)).eval()
    output_VD = model.lm_head.weight.data  # noqa: N806 - vocabulary, hidden size
    # A special token in the middle of a text would be invisible in it; a row of zeros is never the likeliest.
    output_VD[list(tokenizer.get_added_vocab().values())] = 0.0
    _save(model, tokenizer, checkpoints[RUNNING_ON])
    texts = [candidate["question"] for candidate in candidates[:CALIBRATION_ROWS]]
    output_VD[tokenizer.eos_token_id] = end_row(model, tokenizer, texts)
    _save(model, tokenizer, checkpoints[STOPPING])


def bos_tokenizer(tokenizer_file: Path) -> Any:
    """Return the micro-world's tokenizer, made to put the begin token in front of any text, as Llama's does."""
    from tokenizers import processors

    tokenizer = load_tokenizer(tokenizer_file)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS
    assert tokenizer.eos_token == EOS
    return tokenizer


def _llama_config(tokenizer: Any, shape: Shape) -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=INITIAL_GAIN / math.sqrt(shape.hidden_size),
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def end_row(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return a row for the end token, [D], that is the likeliest at one position in `MEAN_LENGTH` of free text.

    A random direction, as long as it takes: its length is a quantile of how far the likeliest token is ahead.
    """
    import torch

    encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.inference_mode():
        ids_BT = model.generate(  # noqa: N806
            **encoded, max_new_tokens=CALIBRATION_TOKENS, do_sample=False, eos_token_id=None
        )
        hidden_ND = model.model(ids_BT).last_hidden_state[:, -CALIBRATION_TOKENS:].flatten(0, 1)  # noqa: N806
        best_N = model.lm_head(hidden_ND).amax(dim=-1)  # noqa: N806
        direction_D = torch.randn(hidden_ND.shape[-1], generator=torch.Generator().manual_seed(1))  # noqa: N806
        needed_N = best_N / (hidden_ND @ direction_D).clamp(min=1e-6)  # noqa: N806
    return direction_D * needed_N.quantile(1 / MEAN_LENGTH)


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _chosen_prompts(checkpoint: Path, candidates: Sequence[dict[str, str]], num: int) -> list[dict[str, str]]:
    lengths = _answer_lengths(checkpoint, [candidate["question"] for candidate in candidates])
    places = choose(lengths, reference_lengths(num, LONGEST_ANSWER))
    return [candidates[place] for place in places]


def _answer_lengths(checkpoint: Path, texts: Sequence[str]) -> list[int]:
    """Return how many tokens the model answers to each of `texts`."""
    from moe_ray.config.schema import ModelConfig
    from moe_ray.engines.base import BatchLimits, GenerateRequest
    from moe_ray.engines.registry import make_engine
    from moe_ray.prompts.messages import Message, Prompt

    model = ModelConfig(path=str(checkpoint.resolve()), dtype="float32", prompt_style="completion", gpus=0)
    engine = make_engine(model, BatchLimits(max_rows=CANDIDATE_BATCH_ROWS, cache_memory_bytes=4 * GIB))
    requests = [
        GenerateRequest(
            id=str(index),
            prompt=Prompt(messages=(Message(role="user", content=text),)),
            max_new_tokens=LONGEST_ANSWER,
            temperature=0.0,
            top_p=1.0,
            seed=0,
        )
        for index, text in enumerate(texts)
    ]
    return [len(drawn.token_ids) for drawn in engine.generate(requests)]
