"""The unit of work: a cell is computed once; a shard is what an actor takes at a time."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from moe_ray.checkpoints.identity import ModelIdentity
from moe_ray.config.schema import DecodingConfig, PromptStyle
from moe_ray.domains.example import Example
from moe_ray.fingerprint import canonical_json, fingerprint
from moe_ray.prompts.messages import Prompt

CellKind = Literal["generate", "likelihood"]
KEY_HEX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """(model, example, decoding): one answer to compute. `sample_index` is 0 for likelihoods."""

    key: str
    kind: CellKind
    model: str
    domain: str
    example_id: str
    sample_index: int
    max_new_tokens: int
    prompt: Prompt


class CellMaker:
    """Makes the cells of one domain.

    A key is the fingerprint of {"asked": {"domain", "example", "messages", "model", "style"}, "decoding", "kind"}.
    Cells share most of that, so each part of the canonical JSON is written once: what an example asks for all its
    models, what a model adds for all its examples, and the decoding for all cells with the same stop strings.
    """

    def __init__(self, decoding: DecodingConfig, *, max_new_tokens: int, likelihood: bool) -> None:
        self._decoding = decoding
        self._max_new_tokens = max_new_tokens
        self._likelihood = likelihood
        self._drawn: dict[tuple[str, ...], list[bytes]] = {}

    def cells(self, examples: Iterable[Example], models: Sequence[ModelIdentity]) -> list[Cell]:
        """Return the cells, model by model: of each example its samples, then its log-likelihoods."""
        made: dict[str, list[Cell]] = {model.name: [] for model in models}
        answering = [(model, _ending({"model": model.fingerprint, "style": model.prompt_style})) for model in models]
        for example in examples:
            begun: dict[PromptStyle, hashlib._Hash] = {}
            for model, ending in answering:
                style = model.prompt_style
                if style not in begun:
                    begun[style] = _beginning(example, example.prompts[style])
                asked = begun[style].copy()
                asked.update(ending)
                made[model.name] += self._cells_of(example, model, asked)
        return [cell for cells in made.values() for cell in cells]

    def _cells_of(self, example: Example, model: ModelIdentity, asked: "hashlib._Hash") -> list[Cell]:
        prompt = example.prompts[model.prompt_style]
        cells = [
            _cell("generate", asked, drawn, example, model.name, index, self._max_new_tokens, prompt)
            for index, drawn in enumerate(self._all_drawn(prompt.stop))
        ]
        if self._likelihood and prompt.continuations:
            measured = _rest("likelihood", {"continuations": list(prompt.continuations)})
            cells.append(_cell("likelihood", asked, measured, example, model.name, 0, 0, prompt))
        return cells

    def _all_drawn(self, stop: tuple[str, ...]) -> list[bytes]:
        """The rest of the key's JSON, for every sample that is drawn."""
        if stop not in self._drawn:
            decoding = self._decoding
            settings = {
                "max_new_tokens": self._max_new_tokens,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "seed": decoding.seed if decoding.temperature > 0 else None,
                "stop": list(stop),
            }
            samples = range(decoding.samples_per_example)
            self._drawn[stop] = [_rest("generate", {**settings, "sample": index}) for index in samples]
        return self._drawn[stop]


def key_of(kind: CellKind, asked: Mapping[str, object], identity: ModelIdentity, decoding: Mapping[str, object]) -> str:
    """Return one key, as `CellMaker` makes it; `asked` has the domain, the example and the messages as pairs."""
    whole = {**asked, "model": identity.fingerprint, "style": identity.prompt_style}
    return fingerprint({"asked": whole, "decoding": decoding, "kind": kind}, num_hex=KEY_HEX)


def _beginning(example: Example, prompt: Prompt) -> "hashlib._Hash":
    messages = [[message.role, message.content] for message in prompt.messages]
    asked = canonical_json({"domain": example.domain, "example": example.id, "messages": messages})
    return hashlib.sha256(f'{{"asked":{asked[:-1]}'.encode())


def _ending(asked: Mapping[str, object]) -> bytes:
    return f",{canonical_json(asked)[1:]}".encode()


def _rest(kind: CellKind, decoding: Mapping[str, object]) -> bytes:
    return _ending({"decoding": decoding, "kind": kind})


def _cell(
    kind: CellKind,
    asked: "hashlib._Hash",
    rest: bytes,
    example: Example,
    model: str,
    sample_index: int,
    max_new_tokens: int,
    prompt: Prompt,
) -> Cell:
    whole = asked.copy()
    whole.update(rest)
    return Cell(
        key=whole.hexdigest()[:KEY_HEX],
        kind=kind,
        model=model,
        domain=example.domain,
        example_id=example.id,
        sample_index=sample_index,
        max_new_tokens=max_new_tokens,
        prompt=prompt,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Cells of one model and one kind, computed together and committed together."""

    id: str
    model: str
    cells: tuple[Cell, ...]


def make_shards(cells: Iterable[Cell], shard_size: int) -> list[Shard]:
    """Split `cells` into shards of at most `shard_size`, one model and one kind each.

    Cells go in the order of their keys, which are hashes: every shard is a random sample of its model's work, so that
    what an interrupted run has is no biased part. The same cells give the same shards everywhere.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.model, cell.kind].append(cell)
    shards = []
    for (model, _), members in groups.items():
        members.sort(key=lambda cell: cell.key)
        for start in range(0, len(members), shard_size):
            shards.append(_shard(model, tuple(members[start : start + shard_size])))
    return shards


def halves(shard: Shard) -> tuple[Shard, Shard]:
    """Return a shard of two or more cells as two, in their order. The first is the larger by at most one cell."""
    middle = (len(shard.cells) + 1) // 2
    return _shard(shard.model, shard.cells[:middle]), _shard(shard.model, shard.cells[middle:])


def _shard(model: str, cells: tuple[Cell, ...]) -> Shard:
    return Shard(id=fingerprint([cell.key for cell in cells]), model=model, cells=cells)


def missing_shards(shards: Sequence[Shard], done: Collection[str]) -> list[Shard]:
    """Return the shards with cells that are not in `done`, cut down to those cells.

    A shard is committed whole, so after a crash it is whole here again, and its batches repeat.
    """
    missing = []
    for shard in shards:
        cells = tuple(cell for cell in shard.cells if cell.key not in done)
        if len(cells) == len(shard.cells):
            missing.append(shard)
        elif cells:
            missing.append(_shard(shard.model, cells))
    return missing
