"""The scripted engine: answers from a script, with simulated speed and injected faults.

It ships: demonstrations, tests and simulations of scale use the real path with it. Its text follows from the
example's id, the seed and the model's name alone; its timings are real, spent asleep.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import (
    BatchLimits,
    Delta,
    EngineMemory,
    FinishReason,
    GenerateRequest,
    Generation,
    Likelihood,
    LikelihoodRequest,
    Stream,
    Timing,
    failed_generation,
    stop_position,
)
from moe_ray.engines.settings import ScriptedSettings, parse_settings
from moe_ray.engines.streams import CLOSED, QueuedStream
from moe_ray.errors import ConfigError, EngineLostError, ModelError
from moe_ray.prompts.reasoning import splitter_of
from moe_ray.prompts.trace_stream import TraceStream

VOCABULARY = (
    "amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "jetty", "knoll", "lagoon",
)  # fmt: skip
NUM_TOKEN_IDS = 32_000
MAX_HASHED_WORDS = 24
BEST_LOGLIKELIHOOD = -0.01
CRASH_EXIT_STATUS = 1

RequestT = TypeVar("RequestT", GenerateRequest, LikelihoodRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    """One answer, before its timing is known."""

    text: str
    words: tuple[str, ...]
    finish_reason: FinishReason


class ScriptedEngine:
    """Implements `moe_ray.engines.base.StreamingEngine`. A token is a word; token ids are the words' hashes.

    A submitted request has a thread to itself and takes as long as it would alone, however many there are.
    """

    def __init__(self, model: ModelConfig, limits: BatchLimits) -> None:
        self._settings = parse_settings(ScriptedSettings, model)
        self._name = model.path
        self._splitter = splitter_of(model)
        self._limits = limits
        self._replies = _read_replies(self._settings.replies)
        self._open: set[QueuedStream] = set()
        self._state = threading.Lock()
        self._is_closed = False
        time.sleep(self._settings.load_s)
        if self._settings.fail_to_load is not None:
            raise ModelError(
                self._settings.fail_to_load, where=f"model {model.path}", remedy="remove fail_to_load from its settings"
            )

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer from the script; see `Engine.generate`. Rows are batched in their order."""
        answers = []
        for batch in _batches(requests, self._limits.max_rows):
            for request in batch:
                self._inject(request.id)
            scripts = [self._script(request) for request in batch]
            timings = self._spend([len(script.words) for script in scripts])
            answers += [
                self._generation(request, script, timing)
                for request, script, timing in zip(batch, scripts, timings, strict=True)
            ]
        return answers

    def submit(self, request: GenerateRequest) -> Stream:
        """Stream the answer word by word; see `StreamingEngine.submit`."""
        cancelled = threading.Event()
        stream = QueuedStream(on_cancel=cancelled.set)
        with self._state:
            if self._is_closed:
                raise EngineLostError(CLOSED)
            self._open.add(stream)
        threading.Thread(
            target=self._speak, args=(request, stream, cancelled), name=f"stream-{request.id}", daemon=True
        ).start()
        return stream

    def loglikelihoods(self, requests: Sequence[LikelihoodRequest]) -> list[Likelihood]:
        """Give each continuation a likelihood by its hash; `prefer` names the choice that gets the best one."""
        answers = []
        for batch in _batches(requests, self._limits.max_rows):
            for request in batch:
                self._inject(request.id)
            timings = self._spend([1] * len(batch))
            answers += [self._likelihood(request, timing) for request, timing in zip(batch, timings, strict=True)]
        return answers

    def memory(self) -> EngineMemory:
        """Return the pretended weights."""
        return EngineMemory(
            device="cpu",
            weights_bytes=self._settings.memory_bytes,
            peak_torch_bytes=None,
            reserved_torch_bytes=None,
        )

    def close(self) -> None:
        """End the open streams."""
        with self._state:
            self._is_closed = True
            left = list(self._open)
        for stream in left:
            stream.finish(failed_generation(CLOSED))

    def _speak(self, request: GenerateRequest, stream: QueuedStream, cancelled: threading.Event) -> None:
        settings = self._settings
        try:
            self._inject(request.id, cancelled)
            script = self._script(request)
            start_s = time.perf_counter()
            shown = TraceStream(self._splitter)
            first_s = None
            # As in `generate`, an answer without a word takes as long as one of a word.
            moment_s = start_s + settings.seconds_per_batch + settings.seconds_per_token
            for word in _pieces(script):
                if cancelled.wait(max(0.0, moment_s - time.perf_counter())) or stream.has_ended:
                    return
                moment_s += settings.seconds_per_token
                first_s = time.perf_counter() - start_s if first_s is None else first_s
                if request.id not in settings.error_on:
                    piece = shown.feed(word)
                    token_ids = (_token_id(word.strip()),)
                    stream.put(Delta(text=piece.answer, reasoning=piece.reasoning, token_ids=token_ids, num_tokens=1))
            timing = Timing(batch_rows=1, time_to_first_token_s=first_s, total_s=time.perf_counter() - start_s)
            answer = self._generation(request, script, timing)
            rest = shown.finish(self._splitter.split("" if answer.error else script.text))
            stream.finish(answer, text=rest.answer, reasoning=rest.reasoning)
        finally:
            # Does nothing where the stream has ended, as it should have.
            stream.finish(failed_generation(f"the script failed on {request.id}"))
            with self._state:
                self._open.discard(stream)

    def _inject(self, id: str, hanging: threading.Event | None = None) -> None:
        """Crash or hang where the script says so; the end of `hanging` ends that too."""
        settings = self._settings
        if id in settings.crash_on and self._is_due("crash", id, settings.crash_times):
            os._exit(CRASH_EXIT_STATUS)
        if id in settings.hang_on and (settings.hang_times is None or self._is_due("hang", id, settings.hang_times)):
            (hanging or threading.Event()).wait()

    def _is_due(self, fault: str, id: str, num_times: int) -> bool:
        """Count a fault through files that only one process can make; False once it happened often enough."""
        assert self._settings.fault_dir is not None
        self._settings.fault_dir.mkdir(parents=True, exist_ok=True)
        for number in range(num_times):
            mark = self._settings.fault_dir / f"{fault}-{_digest(self._name, id).hex()[:16]}-{number}"
            try:
                mark.open("x").close()
            except FileExistsError:
                continue
            return True
        return False

    def _script(self, request: GenerateRequest) -> _Script:
        text = self._reply(request)
        text = text[: stop_position(text, request.prompt.stop)]
        words = text.split()
        if len(words) <= request.max_new_tokens:
            return _Script(text=text, words=tuple(words), finish_reason="stop")
        kept = words[: request.max_new_tokens]
        return _Script(text=" ".join(kept), words=tuple(kept), finish_reason="length")

    def _reply(self, request: GenerateRequest) -> str:
        if request.id in self._replies:
            return self._replies[request.id]
        if self._settings.text is not None:
            return self._settings.text.replace("{id}", request.id)
        digest = _digest(self._name, request.id, str(request.seed))
        num_words = 1 + digest[0] % MAX_HASHED_WORDS
        return " ".join(VOCABULARY[byte % len(VOCABULARY)] for byte in digest[1 : 1 + num_words])

    def _spend(self, num_tokens: Sequence[int]) -> list[Timing]:
        """Sleep for as long as a batch of such answers takes; return each row's times."""
        settings = self._settings
        start_s = time.perf_counter()
        _sleep_until(start_s + settings.seconds_per_batch + settings.seconds_per_token)
        first_s = time.perf_counter() - start_s
        ends_s: dict[int, float] = {}
        for num in sorted(set(num_tokens)):
            _sleep_until(start_s + settings.seconds_per_batch + num * settings.seconds_per_token)
            ends_s[num] = time.perf_counter() - start_s
        return [
            Timing(batch_rows=len(num_tokens), time_to_first_token_s=first_s, total_s=ends_s[num]) for num in num_tokens
        ]

    def _generation(self, request: GenerateRequest, script: _Script, timing: Timing) -> Generation:
        failed = request.id in self._settings.error_on
        split = self._splitter.split(script.text)
        return Generation(
            text="" if failed else split.answer,
            token_ids=() if failed else tuple(_token_id(word) for word in script.words),
            finish_reason="error" if failed else script.finish_reason,
            num_prompt_tokens=_num_prompt_words(request),
            timing=timing,
            error=f"scripted error on {request.id}" if failed else None,
            reasoning=None if failed else split.reasoning,
            num_reasoning_tokens=len(script.text[: split.num_trace_characters].split()) or None,
        )

    def _likelihood(self, request: LikelihoodRequest, timing: Timing) -> Likelihood:
        prompt = request.prompt
        preferred = self._settings.prefer.get(request.id)
        error = f"scripted error on {request.id}" if request.id in self._settings.error_on else None
        if preferred is not None and preferred.strip() not in [choice.strip() for choice in prompt.choices]:
            error = f"prefer names {preferred!r}, which is not a choice of {request.id}"
        continuations = () if error else prompt.continuations
        return Likelihood(
            loglikelihoods=tuple(self._loglikelihood(request.id, text, preferred) for text in continuations),
            num_tokens=tuple(max(1, len(text.split())) for text in continuations),
            num_prompt_tokens=_num_prompt_words(request),
            timing=timing,
            error=error,
        )

    def _loglikelihood(self, id: str, continuation: str, preferred: str | None) -> float:
        if preferred is not None and continuation.strip() == preferred.strip():
            return BEST_LOGLIKELIHOOD
        digest = _digest(self._name, id, continuation)
        per_word = 0.5 + int.from_bytes(digest[:4], "big") / 2**32
        return -per_word * max(1, len(continuation.split()))


def _read_replies(replies: Path | Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(replies, Path):
        return replies
    try:
        lines = replies.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(
            f"replies cannot be read: {error.strerror}", where=str(replies), remedy="check engine_settings.replies"
        ) from error
    return dict(_read_reply(replies, number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _read_reply(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
        id, text = record["id"], record["text"]
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed_reply(path, number) from error
    if not isinstance(id, str) or not isinstance(text, str):
        raise _malformed_reply(path, number)
    return id, text


def _malformed_reply(path: Path, number: int) -> ConfigError:
    return ConfigError(
        "not a reply", where=f"{path}:{number}", remedy='each line is {"id": "...", "text": "..."} with two strings'
    )


def _batches(rows: Sequence[RequestT], max_rows: int) -> Iterator[Sequence[RequestT]]:
    for start in range(0, len(rows), max_rows):
        yield rows[start : start + max_rows]


def _pieces(script: _Script) -> list[str]:
    """The text in pieces of a word each, with the white space before it; the last has the white space after it too."""
    return re.findall(r"\s*\S+(?:\s+\Z)?", script.text)


def _sleep_until(moment_s: float) -> None:
    remaining_s = moment_s - time.perf_counter()
    if remaining_s > 0:
        time.sleep(remaining_s)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _token_id(word: str) -> int:
    return int.from_bytes(_digest(word)[:4], "big") % NUM_TOKEN_IDS


def _num_prompt_words(request: GenerateRequest | LikelihoodRequest) -> int:
    return sum(len(message.content.split()) for message in request.prompt.messages)
