"""Routed experts in responses of vLLM, in this package's format. Needs no torch.

A file holds one response of `/v1/completions` or `/v1/chat/completions` per record, of a server that was started with
--enable-return-routed-experts. Each choice is a text. Its `routed_experts` [T, L, K] are nested lists, or a base64
string of a .npy file in later versions. They cover the prompt and the answer, or the answer alone where the response
has `prompt_routed_experts`. The last token of an answer is not read again and has no experts. With `return_token_ids`
in the request, the response has `prompt_token_ids` and the choices have `token_ids`; else tokens are unknown.

A field of the class may be added to each response. Weights and scores are not in a response, so that mass, entropies
and margins are absent. (vLLM: docs/training/routed_experts_replay.md, and tests of the routed-experts endpoint.)
"""

import base64
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moe_ray.domains.example import Record
from moe_ray.domains.sources import read_file
from moe_ray.errors import DataError
from moe_ray.formatting import plural
from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.readers.units import (
    Selected,
    UnitName,
    imported_layer,
    imported_manifest,
    unit_of_tokens,
)
from moe_ray.specialisation.records import TraceManifest
from moe_ray.specialisation.texts import label_key_of
from moe_ray.specialisation.writing import TextTrace, write_trace

EXPERTS_KEY, PROMPT_EXPERTS_KEY = "routed_experts", "prompt_routed_experts"
IDS_KEY, PROMPT_IDS_KEY = "token_ids", "prompt_token_ids"
REMEDY = "give one response of vLLM per line (.jsonl), of a server with --enable-return-routed-experts"


class _Routed(NamedTuple):
    """A choice as it was routed: `experts` [T, L, K], -1 for none; its tokens, if the response has them."""

    name: UnitName
    experts: Selected
    token_ids: list[int] | None


def import_vllm(path: Path, out: Path, *, num_experts: int, label_key: str | None = None) -> TraceManifest:
    """Write the routed experts of all responses in a file as a trace to `out`.

    Layers without experts, which some versions fill with one expert for all tokens, are left out. Raises `DataError`.
    """
    records = read_file(path)
    key = label_key_of(records, path, label_key)
    choices = [choice for record in records for choice in _choices(record, path, key, num_experts)]
    if not choices:
        raise DataError("holds no responses", where=str(path), remedy=REMEDY)
    shapes = sorted({choice.experts.shape[1:] for choice in choices})
    if len(shapes) > 1:
        what = f"holds responses of other models: {shapes[0]} and {shapes[1]} layers and experts per token"
        raise DataError(what, where=str(path), remedy="give the responses of one model")
    _require_unique([choice.name.text_id for choice in choices], path)
    num_layers, top_k = shapes[0]
    kept = [at for at in range(num_layers) if _has_experts(choices, at)]
    if not kept:
        raise DataError("no layer selects experts", where=str(path), remedy=REMEDY)
    layers = [imported_layer(at, f"layers.{at}", num_experts=num_experts, top_k=top_k) for at in kept]
    manifest = imported_manifest(str(path), "vllm", layers, with_tokens=True, notes=_notes(num_layers, kept, choices))
    return write_trace(out, manifest, _texts(choices, kept, layers), with_tokens=True)


def _choices(record: Record, path: Path, label_key: str | None, num_experts: int) -> Iterator[_Routed]:
    where, choices = f"{path}, {record.get('id')}", record.get("choices")
    if not isinstance(record.get("id"), str) or not isinstance(choices, list) or not choices:
        raise DataError("is not a response: it has no id and choices", where=where, remedy=REMEDY)
    label = "" if label_key is None else str(record[label_key])
    for at, choice in enumerate(choices):
        if not isinstance(choice, dict) or choice.get(EXPERTS_KEY) is None:
            raise DataError(f"choice {at} has no {EXPERTS_KEY}", where=where, remedy=REMEDY)
        name = UnitName(record["id"] if len(choices) == 1 else f"{record['id']}/{at}", label)
        experts = _decoded(choice[EXPERTS_KEY], where, num_experts)
        if (prompt := record.get(PROMPT_EXPERTS_KEY)) is not None:
            experts = _joined(_decoded(prompt, where, num_experts), experts, where)
        yield _Routed(name, experts, _token_ids(record, choice, experts, where))


def _decoded(given: object, where: str, num_experts: int) -> Selected:
    try:
        if isinstance(given, str):
            rows = np.load(io.BytesIO(base64.b64decode(given, validate=True)), allow_pickle=False)
        else:
            rows = np.asarray(given)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError) as error:
        raise DataError(f"its {EXPERTS_KEY} cannot be decoded", where=where, remedy=REMEDY) from error
    if rows.ndim != 3 or not rows.size or rows.dtype.kind not in "iu":
        what = f"its {EXPERTS_KEY} are {rows.dtype} of shape {list(rows.shape)}, not experts of tokens and layers"
        raise DataError(what, where=where, remedy=REMEDY)
    if rows.max() >= num_experts or rows.min() < -1:
        wrong = rows.max() if rows.max() >= num_experts else rows.min()
        raise DataError(f"selects expert {wrong} of {num_experts}", where=where, remedy="give --num-experts")
    selected: Selected = rows.astype(np.int16)
    return selected


def _joined(prompt: Selected, answer: Selected, where: str) -> Selected:
    if prompt.shape[1:] != answer.shape[1:]:
        what = f"its prompt has {list(prompt.shape[1:])} layers and experts, its answer {list(answer.shape[1:])}"
        raise DataError(what, where=where, remedy=REMEDY)
    return np.concatenate([prompt, answer])


def _token_ids(record: Record, choice: dict[str, Any], experts: Selected, where: str) -> list[int] | None:
    """Return the tokens of the rows of `experts`; None where the response has none.

    A response without the rows of its first tokens, which a request may leave out, ends with the answer all the same.
    """
    prompt = choice.get(PROMPT_IDS_KEY) or record.get(PROMPT_IDS_KEY)
    answer = choice.get(IDS_KEY)
    if not prompt or answer is None:
        return None
    try:
        ids = [int(one) for one in (*prompt, *answer)]
    except (TypeError, ValueError) as error:
        raise DataError(f"its {IDS_KEY} are not numbers", where=where, remedy=REMEDY) from error
    if len(experts) > len(ids):
        raise DataError(
            f"has experts of {len(experts)} tokens, and {plural(len(ids), 'token')}", where=where, remedy=REMEDY
        )
    if len(experts) == len(ids) or record.get(PROMPT_EXPERTS_KEY) is not None:
        return ids[: len(experts)]
    return ids[-1 - len(experts) : -1]


def _require_unique(text_ids: Sequence[str], path: Path) -> None:
    (text_id, times), *_ = Counter(text_ids).most_common(1)
    if times > 1:
        raise DataError(f"{times} responses have the id {text_id}", where=str(path), remedy="give each of them once")


def _has_experts(choices: Sequence[_Routed], at: int) -> bool:
    """Whether a layer selects experts: a filled layer repeats one expert, which a router of several never does."""
    for choice in choices:
        rows = choice.experts[:, at]
        if (rows[:, 0] >= 0).any() and (rows.shape[1] == 1 or (rows != rows[:, :1]).any()):
            return True
    return False


def _notes(num_layers: int, kept: Sequence[int], choices: Sequence[_Routed]) -> list[str]:
    notes = ["imported from vLLM: tokens of a chat template count; no weights, entropies and margins"]
    if len(kept) < num_layers:
        notes.append(f"{plural(num_layers - len(kept), 'layer')} without experts left out")
    num_unknown = sum(choice.token_ids is None for choice in choices)
    if num_unknown:
        notes.append(f"{plural(num_unknown, 'text')} without token ids: send return_token_ids with each request")
    return notes


def _texts(choices: Sequence[_Routed], kept: Sequence[int], layers: Sequence[TracedLayer]) -> Iterator[TextTrace]:
    for choice in sorted(choices, key=lambda choice: choice.name.text_id):
        selected = [choice.experts[:, at] for at in kept]
        text = unit_of_tokens(choice.name, selected, layers, choice.token_ids)
        if text.num_tokens:
            yield text
