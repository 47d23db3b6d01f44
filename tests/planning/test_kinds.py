"""Kinds of cells: what a row keeps of each, and that a further kind needs nothing else than itself."""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from moe_ray.config.schema import DecodingConfig, ModelConfig
from moe_ray.engines.base import BatchLimits, Engine, Likelihood, Timing
from moe_ray.execution.replica import Replica, ReplicaSpec
from moe_ray.planning.cells import Cell, make_shards
from moe_ray.planning.keys import CellMaker, key_of
from moe_ray.planning.kinds import GENERATE, KINDS, LIKELIHOOD, CellKind
from moe_ray.prompts.messages import Prompt
from moe_ray.store import reuse
from moe_ray.store.answers import ANSWER_SCHEMA
from tests.planning.cells import PROMPT, make_example, make_identity

WARM = DecodingConfig(temperature=0.5, samples_per_example=2)
SCRIPTED = ModelConfig(path="m", engine="scripted", engine_settings={"text": "<think>so</think>yes"})


class LengthKind(CellKind[int, Likelihood]):
    """The number of characters in a prompt: a kind that no engine knows."""

    name = "length"
    columns = ("finish_reason", "num_completion_tokens")

    def num_cells(self, prompt: Prompt, decoding: DecodingConfig) -> int:
        return 1

    def settings(self, prompt: Prompt, decoding: DecodingConfig, max_new_tokens: int) -> dict[str, Any]:
        return {"unit": "characters"}

    def settings_in_key(self, settings: Mapping[str, Any], sample_index: int) -> dict[str, Any]:
        return {"unit": settings["unit"]}

    def settings_follow_from(self, prompt: Prompt) -> Hashable:
        return None

    def request(self, cell: Cell, decoding: DecodingConfig) -> int:
        return len(cell.prompt.messages[0].content)

    def ask(self, engine: Engine, requests: Sequence[int]) -> list[Likelihood]:
        timing = Timing(batch_rows=1, time_to_first_token_s=None, total_s=0.0)
        return [
            Likelihood(loglikelihoods=(), num_tokens=(number,), num_prompt_tokens=0, timing=timing)
            for number in requests
        ]

    def row(self, cell: Cell, result: Likelihood, model: ModelConfig) -> dict[str, Any]:
        return {"finish_reason": "stop", "num_completion_tokens": result.num_tokens[0]}

    def is_whole(self, row: Mapping[str, Any]) -> bool:
        return int(row["num_completion_tokens"]) > 0


def answered(cells: Sequence[Cell], decoding: DecodingConfig = WARM) -> pa.Table:
    """Answer the cells of one kind with a scripted engine, in this process."""
    spec = ReplicaSpec(
        replica="r",
        model_name="m",
        model=SCRIPTED,
        decoding=decoding,
        limits=BatchLimits(max_rows=4, cache_memory_bytes=1 << 20),
        cpu_threads=1,
        uses_gpu=False,
    )
    replica = Replica(spec)
    replica.load()
    return pa.concat_tables([replica.run(shard).table for shard in make_shards(cells, 8)])


def made(*wanted: CellKind[Any, Any]) -> list[Cell]:
    return CellMaker(WARM, max_new_tokens=8, kinds=wanted).cells([make_example()], [make_identity()])


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_fills_its_columns_of_the_answer_table_and_no_other(name: str) -> None:
    kind = KINDS[name]
    (row, *_) = answered(made(kind)).to_pylist()
    filled_by_others = {column for other in KINDS.values() for column in other.columns} - set(kind.columns)
    assert set(kind.columns) <= set(ANSWER_SCHEMA.names)
    assert all(row[column] in (None, 0) for column in filled_by_others)
    assert kind.is_whole(row)


def test_a_generated_row_holds_the_answer_without_its_trace_and_what_was_asked() -> None:
    first, second = answered(made(GENERATE)).sort_by("sample_index").to_pylist()
    assert (first["text"], first["reasoning"], first["finish_reason"]) == ("yes", "so", "stop")
    assert json.loads(first["settings"]) == {
        "prompt_style": "chat", "max_new_tokens": 8, "temperature": 0.5, "top_p": 1.0, "seed": WARM.seed, "stop": ["\n"]
    }  # fmt: skip
    assert (first["settings"], first["messages"]) == (second["settings"], second["messages"])
    assert first["key"] != second["key"]


def test_a_measured_row_holds_one_number_for_each_continuation() -> None:
    (row,) = answered(made(LIKELIHOOD)).to_pylist()
    assert json.loads(row["settings"]) == {"prompt_style": "chat", "continuations": [" yes", " no"]}
    assert len(row["loglikelihoods"]) == len(row["loglikelihood_tokens"]) == 2
    assert not LIKELIHOOD.is_whole({**row, "loglikelihoods": [0.0]})
    assert not LIKELIHOOD.is_whole({**row, "loglikelihoods": [0.0, float("nan")]})


@pytest.mark.parametrize("name", KINDS)
def test_a_stored_row_tells_its_key(name: str) -> None:
    for row in answered(made(KINDS[name])).to_pylist():
        assert reuse.identity_in_key(row, [make_identity()]) == make_identity().key
        assert reuse.identity_in_key(row, [make_identity(weights="w2")]) is None
        assert reuse.identity_in_key({**row, "kind": "unknown"}, [make_identity()]) is None


def test_a_further_kind_is_asked_stored_and_reused_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    length = LengthKind()
    monkeypatch.setitem(KINDS, length.name, length)
    cells = made(GENERATE, length)
    assert [cell.kind for cell in cells] == ["generate", "generate", "length"]
    identity = make_identity()
    messages = [[message.role, message.content] for message in PROMPT.messages]
    asked = {"domain": "d", "example": "e1", "messages": messages}
    assert cells[-1].key == key_of("length", asked, identity, {"unit": "characters"})
    row = answered(cells).to_pylist()[-1]
    assert (row["kind"], row["num_completion_tokens"], row["text"]) == ("length", len("Is it?"), None)
    assert reuse._is_sound(row, identity)
    assert not reuse._is_sound({**row, "num_completion_tokens": 0}, identity)
