"""Ways to run a sequence-classification encoder on a CPU, each a function from a padded batch to logits."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moe_ray.routing.transformer.forward import (
    EagerForward,
    make_forward,
    pack_weights,
    sharing_copy,
    skip_unread_tokens,
)

Batch = Mapping[str, torch.Tensor]
Run = Callable[[Batch], npt.NDArray[np.float64]]

EAGER = "eager, sdpa"
LEAN = "moe_ray"
LEAN_BFLOAT16 = "moe_ray, bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the model. `is_exact`: it claims eager's verdicts, and its probabilities but for rounding.

    `for_large`: also timed on large batches, where a call takes seconds.
    """

    name: str
    run: Run
    is_exact: bool
    for_large: bool = False


def variants(model: Any, num_threads: int, *, compiled: bool) -> Iterator[Variant]:
    """Every way that this machine has, `EAGER` first."""
    eager = EagerForward(model)
    yield Variant(name=EAGER, run=lambda batch: eager(batch).logits, is_exact=True, for_large=True)
    yield Variant(name="eager, 1 thread", run=_with_threads(eager, 1, num_threads), is_exact=True)
    yield Variant(name="eager, denormals flushed", run=_flushing(eager), is_exact=True)
    yield _plain("eager, plain attention", _with_plain_attention(model), is_exact=True)
    yield _plain("first token in the last layer", _first_token_only(model), is_exact=True)
    yield _plain("packed weights", _packed_only(model), is_exact=True)
    yield _forward(LEAN, make_forward(model), is_exact=True)
    if compiled:
        yield Variant(name="torch.compile", run=_compiled(model), is_exact=True)
        yield Variant(name="torch.compile, frozen", run=_compiled(model, freezing=True), is_exact=True)
    yield from _onnx(model, num_threads)
    yield _plain("bfloat16 autocast", model, is_exact=False, autocast=True)
    yield _forward(LEAN_BFLOAT16, make_forward(model, torch.bfloat16), is_exact=False)
    yield _plain("torch int8, dynamic", _int8(model), is_exact=False)


def _forward(name: str, forward: EagerForward, *, is_exact: bool) -> Variant:
    return Variant(name=name, run=lambda batch: forward(batch).logits, is_exact=is_exact, for_large=True)


def _plain(name: str, model: Any, *, is_exact: bool, autocast: bool = False) -> Variant:
    return Variant(name=name, run=lambda batch: _logits(model, batch, autocast), is_exact=is_exact)


def _logits(model: Any, batch: Batch, autocast: bool = False) -> npt.NDArray[np.float64]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits: torch.Tensor = model(**batch).logits
    return logits.double().numpy()


def _with_threads(forward: EagerForward, num_threads: int, usual: int) -> Run:
    def run(batch: Batch) -> npt.NDArray[np.float64]:
        torch.set_num_threads(num_threads)
        try:
            return forward(batch).logits
        finally:
            torch.set_num_threads(usual)

    return run


def _flushing(forward: EagerForward) -> Run:
    def run(batch: Batch) -> npt.NDArray[np.float64]:
        torch.set_flush_denormal(True)
        try:
            return forward(batch).logits
        finally:
            torch.set_flush_denormal(False)

    return run


def _with_plain_attention(model: Any) -> Any:
    changed = sharing_copy(model)
    changed.set_attn_implementation("eager")
    return changed


def _first_token_only(model: Any) -> Any:
    changed = sharing_copy(model)
    skip_unread_tokens(changed)
    return changed


def _packed_only(model: Any) -> Any:
    changed = sharing_copy(model)
    pack_weights(changed, torch.float32)
    return changed


def _compiled(model: Any, **options: bool) -> Run:
    """Frozen, the compiler packs the weights itself; it cannot compile those that are packed already."""
    compiled = torch.compile(sharing_copy(model), dynamic=True, options=dict(options))
    return lambda batch: _logits(compiled, batch)


@contextmanager
def _advice_ignored() -> Iterator[None]:
    """Quiet what exporters and quantizers say of their own future."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _int8(model: Any) -> Any:
    quantize: Any = torch.ao.quantization.quantize_dynamic
    with _advice_ignored():
        return quantize(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)


def _onnx(model: Any, num_threads: int) -> Iterator[Variant]:
    """ONNX Runtime in float32 and with dynamic int8; none of them where it is not installed."""
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        return
    quantization = import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(prefix="router-speed-") as name, _advice_ignored():
        exact, small = Path(name, "float32.onnx"), Path(name, "int8.onnx")
        _export(model, exact)
        int8 = quantization.QuantType.QInt8
        quantization.quantize_dynamic(exact, small, weight_type=int8, per_channel=True)
        runs = [_session(path, num_threads) for path in (exact, small)]
    yield Variant(name="ONNX Runtime", run=runs[0], is_exact=True)
    yield Variant(name="ONNX Runtime, int8, dynamic", run=runs[1], is_exact=False)


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def _export(model: Any, path: Path) -> None:
    ids = torch.randint(5, 100, (2, 40))
    mask = torch.ones_like(ids)
    mask[1, 30:] = 0  # a mask of ones alone would be traced away
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        _Logits(model).eval(),  # else the export leaves the model in training mode
        (ids, mask),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "texts"}},
        opset_version=18,
        dynamo=False,
    )


def _session(path: Path, num_threads: int) -> Run:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the others' cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(batch: Batch) -> npt.NDArray[np.float64]:
        (logits,) = session.run(None, {name: part.numpy() for name, part in batch.items()})
        return np.asarray(logits, dtype=np.float64)

    return run
