"""The cells of a domain, and their keys: fingerprints of what decides an answer, never of where it was computed."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.config.schema import DecodingConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.fingerprint import canonical_json, fingerprint
from moe_ray.planning.cells import Cell
from moe_ray.planning.kinds import CellKind
from moe_ray.prompts.messages import Prompt

KEY_HEX = 32
# Endings of keys that are kept; most examples of a domain share theirs.
MAX_KEPT = 64


class CellMaker:
    """Makes the cells of one domain, of each of `kinds`.

    A key is the fingerprint of {"asked": {"domain", "example", "messages", "model", "style"}, "decoding", "kind"}.
    Cells share most of that, so each part of the canonical JSON is written once: what an example asks for all its
    models, what a model adds for all its examples, and the decoding for all cells with the same settings. The parts can
    be joined because canonical JSON sorts keys: "asked" comes first, and within it "model" and "style" come last.
    """

    def __init__(self, decoding: DecodingConfig, *, max_new_tokens: int, kinds: Sequence[CellKind[Any, Any]]) -> None:
        self._decoding = decoding
        self._max_new_tokens = max_new_tokens
        self._kinds = kinds
        self._kept: dict[Hashable, list[bytes]] = {}

    def cells(self, examples: Iterable[Example], models: Sequence[ModelIdentity]) -> list[Cell]:
        """Return the cells, model by model: of each example those of the first kind, then those of the next."""
        made: dict[str, list[Cell]] = {model.name: [] for model in models}
        answering = [(model, _ending({"model": model.fingerprint, "style": model.prompt_style})) for model in models]
        for example in examples:
            hashes: dict[PromptStyle, hashlib._Hash] = {}
            for model, ending in answering:
                style = model.prompt_style
                if style not in hashes:
                    hashes[style] = _beginning(example, example.prompts[style])
                asked = hashes[style].copy()
                asked.update(ending)
                made[model.name] += self._cells_of(example, model, asked)
        return [cell for cells in made.values() for cell in cells]

    def _cells_of(self, example: Example, model: ModelIdentity, asked: "hashlib._Hash") -> list[Cell]:
        prompt = example.prompts[model.prompt_style]
        return [
            Cell(
                key=_key(asked, rest),
                kind=kind.name,
                model=model.name,
                domain=example.domain,
                example_id=example.id,
                sample_index=index,
                max_new_tokens=kind.max_new_tokens(self._max_new_tokens),
                prompt=prompt,
            )
            for kind in self._kinds
            for index, rest in enumerate(self._rests(kind, prompt))
        ]

    def _rests(self, kind: CellKind[Any, Any], prompt: Prompt) -> list[bytes]:
        """The rest of the key's JSON, for each of the example's cells of this kind."""
        number = kind.num_cells(prompt, self._decoding)
        name = (kind.name, number, kind.settings_follow_from(prompt))
        if name not in self._kept:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            settings = kind.settings(prompt, self._decoding, self._max_new_tokens)
            parts = [{"decoding": kind.settings_in_key(settings, index), "kind": kind.name} for index in range(number)]
            self._kept[name] = [_ending(part) for part in parts]
        return self._kept[name]


def key_of(kind: str, asked: Mapping[str, object], identity: ModelIdentity, decoding: Mapping[str, object]) -> str:
    """Return one key, as `CellMaker` makes it; `asked` has the domain, the example and the messages as pairs."""
    whole = {**asked, "model": identity.fingerprint, "style": identity.prompt_style}
    return fingerprint({"asked": whole, "decoding": decoding, "kind": kind}, num_hex=KEY_HEX)


def _beginning(example: Example, prompt: Prompt) -> "hashlib._Hash":
    messages = [[message.role, message.content] for message in prompt.messages]
    asked = canonical_json({"domain": example.domain, "example": example.id, "messages": messages})
    return hashlib.sha256(f'{{"asked":{asked[:-1]}'.encode())


def _ending(asked: Mapping[str, object]) -> bytes:
    return f",{canonical_json(asked)[1:]}".encode()


def _key(asked: "hashlib._Hash", rest: bytes) -> str:
    whole = asked.copy()
    whole.update(rest)
    return whole.hexdigest()[:KEY_HEX]
