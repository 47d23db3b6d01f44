"""Routed experts in responses of vLLM become traces of this package.

Responses are as vLLM documents them: nested lists with `prompt_routed_experts` beside them (v0.21,
docs/training/routed_experts_replay.md), or one base64 .npy of the prompt and the answer but for its last token.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_ray.specialisation.records import read_trace
from tests.support.commands import Command

NUM_EXPERTS, TOP_K, NUM_LAYERS = 8, 2, 3
PROMPT, ANSWER = [5, 6, 7, 8], [9, 10, 11]

Array = np.ndarray[Any, Any]


def routed(rng: np.random.Generator, num_tokens: int, *, favourite: int = 0) -> Array:
    rows = np.zeros((num_tokens, NUM_LAYERS, TOP_K), dtype=np.int32)
    for token in range(num_tokens):
        for layer in range(1, NUM_LAYERS):  # layer 0 is dense: zeros for all tokens
            drawn = rng.permutation(NUM_EXPERTS)[:TOP_K]
            rows[token, layer] = np.array([favourite, 1 + rng.integers(3)]) if token % 2 else drawn
    return rows


def npy(rows: Array) -> str:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def response(name: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": name, "object": "text_completion", "model": "m", "choices": choices,
        "usage": {"prompt_tokens": len(PROMPT), "completion_tokens": len(ANSWER)}, **more,
    }  # fmt: skip


def choice(rows: object, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "text": "x", "finish_reason": "length", "routed_experts": rows, **more}


def write(path: Path, responses: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in responses) + "\n")
    return path


def test_each_form_of_a_response_gives_the_same_tokens_and_experts(moe_ray: Command, tmp_path: Path) -> None:
    rows = routed(np.random.default_rng(1), len(PROMPT) + len(ANSWER) - 1)
    own_ids: dict[str, Any] = {"prompt_token_ids": PROMPT, "token_ids": ANSWER}
    cached = rows.copy()
    cached[:2] = -1
    responses = [
        response("cmpl-a", [choice(npy(rows), **own_ids)]),
        response("cmpl-b", [choice(rows.tolist(), token_ids=ANSWER)], prompt_token_ids=PROMPT),
        response(
            "cmpl-c", [choice(rows[4:].tolist(), at, token_ids=ANSWER) for at in (0, 1)],
            prompt_routed_experts=rows[:4].tolist(), prompt_token_ids=PROMPT,
        ),
        response("cmpl-d", [choice(npy(rows[3:]), **own_ids)]),  # routed_experts_prompt_start: 3
        response("cmpl-e", [choice(npy(cached.astype(np.int16)), **own_ids)]),  # prefix cache
        response("cmpl-f", [choice(npy(rows))]),
    ]  # fmt: skip
    path = write(tmp_path / "responses.jsonl", responses)
    code, shown = moe_ray("specialise", "import-vllm", path, "--num-experts", NUM_EXPERTS, "--out", tmp_path / "t")
    assert code == 0, shown
    assert "1 layer without experts left out" in shown
    assert "1 text without token ids" in shown
    read = read_trace(tmp_path / "t", with_tokens=True)
    assert [layer.record.layer for layer in read.layers] == [1, 2]
    ids = [*PROMPT, *ANSWER][:-1]
    starts = {"cmpl-a": 0, "cmpl-b": 0, "cmpl-c/0": 0, "cmpl-c/1": 0, "cmpl-d": 3, "cmpl-e": 2, "cmpl-f": 0}
    assert read.text_ids == tuple(starts)
    for tokens, (name, start) in zip(read.tokens, starts.items(), strict=True):
        assert (tokens.experts == rows[start:, 1:]).all()
        assert tokens.token_ids.tolist() == ([-1] * len(ids) if name == "cmpl-f" else ids[start:])
    assert read.num_masked.tolist() == [0, 0, 0, 0, 0, 2, 0]
    for place in (0, 1):
        expected = np.bincount(rows[:, 1 + place].ravel(), minlength=NUM_EXPERTS)
        assert read.layers[place].selected[0].tolist() == expected.tolist()


def test_classes_that_are_added_to_responses_are_compared(moe_ray: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    own_ids: dict[str, Any] = {"prompt_token_ids": PROMPT, "token_ids": ANSWER}
    responses = [
        response(
            f"cmpl-{label}-{at}", [choice(npy(routed(rng, 6, favourite=favourite)), **own_ids)], topic=label
        )
        for label, favourite in (("code", 0), ("law", 7))
        for at in range(20)
    ]  # fmt: skip
    path = write(tmp_path / "responses.jsonl", responses)
    given = ("specialise", "import-vllm", path, "--num-experts", NUM_EXPERTS, "--label", "topic")
    code, shown = moe_ray(*given, "--out", tmp_path / "t")
    assert code == 0, shown
    code, shown = moe_ray("specialise", "report", tmp_path / "t", "--json")
    assert code == 0, shown
    report = json.loads(shown)
    assert report["classes"] == {"code": 20, "law": 20}
    measures = {value["measure"] for value in report["values"]}
    assert {"lift", "generalised_js", "conditional_information"} <= measures
    assert not {"mass_share", "entropy"} & measures
    assert any(one["label"] == "law" and one["expert"] == 7 for one in report["sentences"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "a"}, "is not a response: it has no id and choices"),
        ({"id": "a", "choices": [{}]}, "choice 0 has no routed_experts"),
        (response("a", [choice(None)]), "choice 0 has no routed_experts"),
        (response("a", [choice("%%")]), "its routed_experts cannot be decoded"),
        (response("a", [choice(npy(np.zeros((2, 1, 2)))[:-20])]), "its routed_experts cannot be decoded"),
        (response("a", [choice([[[0, 1]], [[0]]])]), "its routed_experts cannot be decoded"),
        (response("a", [choice([[0, 1]])]), "are int64 of shape [1, 2]"),
        (response("a", [choice([[[0.5, 1]]])]), "are float64 of shape [1, 1, 2]"),
        (response("a", [choice([[[0, 8]]])]), "selects expert 8 of 8"),
        (response("a", [choice([[[0, 1]]] * 9, prompt_token_ids=PROMPT, token_ids=ANSWER)]), "9 tokens, and 7"),
        (response("a", [choice([[[0, 0]]])]), "no layer selects experts"),
        (response("a", [choice([[[0, 1]]])], prompt_routed_experts=[[[0, 1, 2]]]), "its prompt has [1, 3]"),
    ],
)  # fmt: skip
def test_what_is_no_response_is_one_message(
    moe_ray: Command, tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "responses.jsonl", [line])
    code, shown = moe_ray("specialise", "import-vllm", path, "--num-experts", 8, "--out", tmp_path / "t")
    assert code == 2, shown
    assert "Traceback" not in shown
    assert message in " ".join(shown.split())
    assert not (tmp_path / "t").exists()


def test_responses_that_do_not_fit_each_other_are_one_message(moe_ray: Command, tmp_path: Path) -> None:
    one, other = [[[0, 1]]], [[[0, 1], [2, 3]]]
    path, given = tmp_path / "responses.jsonl", ("--num-experts", 8, "--out", tmp_path / "t")
    write(path, [response("a", [choice(one)]), response("b", [choice(other)])])
    code, shown = moe_ray("specialise", "import-vllm", path, *given)
    assert (code, "holds responses of other models" in shown) == (2, True), shown
    write(path, [response("a", [choice(one)]), response("a", [choice(one)])])
    code, shown = moe_ray("specialise", "import-vllm", path, *given)
    assert (code, "2 responses have the id a" in shown) == (2, True), shown
    write(path, [response("a", [choice(one)], label="x"), response("b", [choice(one)])])
    code, shown = moe_ray("specialise", "import-vllm", path, *given)
    assert (code, "1 of 2 records have no 'label'" in shown) == (2, True), shown
    path.write_text(path.read_text()[:-9])
    code, shown = moe_ray("specialise", "import-vllm", path, *given)
    assert (code, "Traceback" in shown) == (2, False), shown
