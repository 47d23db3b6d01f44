"""One batch through a sequence-classification model: logits, and the features before them."""

import copy
import functools
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moe_ray.errors import ModelError
from moe_ray.routing.classifier import ClassifierOutputs


class PackedLinear(nn.Linear):
    """A linear layer whose weight oneDNN has laid out for this CPU, and multiplies in `dtype`; for inference only.

    torch alone gives float32 products to MKL, which leaves half of an AMD CPU's vector units idle; oneDNN uses them,
    and the layout of its own saves it the reordering at each call. Takes and gives the dtype of the input.
    """

    def __init__(self, plain: nn.Linear, dtype: torch.dtype) -> None:
        """Share the parameters of `plain`; the packed weight is a copy beside them."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self._dtype = dtype
        self._packed = torch.ops.mkldnn._reorder_linear_weight(plain.weight.detach().to(dtype))
        self._packed_bias = None if plain.bias is None else plain.bias.detach().to(dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # Of a strided input oneDNN may take its reference kernel, which is a thousand times slower.
        read = input.to(self._dtype).contiguous()
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            read, self._packed, self._packed_bias, "none", [], ""
        )
        return product.to(input.dtype)


class FirstTokenLayer(nn.Module):
    """The last layer of an encoder for its first token alone: the beginning of what `layer` gives.

    Of hidden states [num_texts, num_tokens, width] it gives [num_texts, 1, width]. Keys and values are of all tokens,
    so the numbers are the same but for rounding.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        first = hidden[:, :1]
        return self._finish(self._attend(first, hidden, attention_mask), first)

    def _attend(self, first: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        query, key, value, num_heads = self._projections()
        attended = nn.functional.scaled_dot_product_attention(
            _heads(query(first), num_heads),
            _heads(key(hidden), num_heads),
            _heads(value(hidden), num_heads),
            attn_mask=None if mask is None else mask[:, :, :1],
        )
        return attended.transpose(1, 2).flatten(2)

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module, int]:
        raise NotImplementedError

    def _finish(self, attended: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class DistilBertFirstToken(FirstTokenLayer):
    """Of DistilBERT's `TransformerBlock`."""

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module, int]:
        attention = self.layer.attention
        return attention.q_lin, attention.k_lin, attention.v_lin, attention.n_heads

    def _finish(self, attended: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        mixed = self.layer.sa_layer_norm(self.layer.attention.out_lin(attended) + first)
        given: torch.Tensor = self.layer.output_layer_norm(self.layer.ffn(mixed) + mixed)
        return given


class BertFirstToken(FirstTokenLayer):
    """Of `BertLayer`, and of the layers that are built like it."""

    def _projections(self) -> tuple[nn.Module, nn.Module, nn.Module, int]:
        attention = self.layer.attention.self
        return attention.query, attention.key, attention.value, attention.num_attention_heads

    def _finish(self, attended: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        mixed = self.layer.attention.output(attended, first)
        given: torch.Tensor = self.layer.output(self.layer.intermediate(mixed), mixed)
        return given


# Encoders whose classification head reads the first token alone, by transformers' model_type.
FIRST_TOKEN_LAYERS: Mapping[str, type[FirstTokenLayer]] = {
    "bert": BertFirstToken,
    "camembert": BertFirstToken,
    "distilbert": DistilBertFirstToken,
    "electra": BertFirstToken,
    "roberta": BertFirstToken,
    "xlm-roberta": BertFirstToken,
}


def can_be_lean(model: Any, dtype: torch.dtype) -> bool:
    """Whether `lean_copy` takes `model`: float32 weights on an x86 CPU that multiplies packed weights in `dtype`."""
    weight = next(model.parameters())
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and _multiplies_packed(dtype)


def lean_copy(model: Any, dtype: torch.dtype) -> Any:
    """Return a copy of `model` for inference that gives the same logits with less work; `model` stays as it is.

    They share their parameters; the copy's packed weights come to as much memory again (half for bfloat16). Encoders
    that `FIRST_TOKEN_LAYERS` does not list get packed weights alone. What gives the logits is small, and stays float32.
    """
    lean = sharing_copy(model)
    skip_unread_tokens(lean)
    pack_weights(lean, dtype)
    return lean


def sharing_copy(model: Any) -> Any:
    """Return a copy of `model` for inference, whose modules may be exchanged; its parameters are the same ones."""
    shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).eval()


def skip_unread_tokens(model: Any) -> None:
    """Make the last layer do its first token alone, where `FIRST_TOKEN_LAYERS` says that no other is read."""
    first_token_layer = FIRST_TOKEN_LAYERS.get(model.config.model_type)
    if first_token_layer is None or getattr(model.config, "is_decoder", False):
        return
    base = model.base_model
    layers = (base.transformer if model.config.model_type == "distilbert" else base.encoder).layer
    layers[-1] = first_token_layer(layers[-1])


def pack_weights(model: Any, dtype: torch.dtype) -> None:
    """Exchange linear layers for packed ones that multiply in `dtype`, but not the one that gives the logits."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child.out_features != model.config.num_labels:
                setattr(parent, name, PackedLinear(child, dtype))


@functools.cache
def _multiplies_packed(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operators are here and work: they are private to torch, and bfloat16 needs AVX-512 or AMX."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        with torch.inference_mode():
            PackedLinear(nn.Linear(16, 16), dtype)(torch.zeros(1, 16))
    except (AttributeError, RuntimeError):
        return False
    return True


def _heads(hidden: torch.Tensor, num_heads: int) -> torch.Tensor:
    """[num_texts, num_tokens, width] to [num_texts, num_heads, num_tokens, width / num_heads]."""
    return hidden.view(*hidden.shape[:2], num_heads, -1).transpose(1, 2)


def make_forward(model: Any, dtype: torch.dtype = torch.float32) -> "EagerForward":
    """Return the fastest way to run `model` that gives its logits: on an x86 CPU a leaner copy, elsewhere itself.

    With float32 they differ by rounding alone. bfloat16 is an option for CPUs that multiply it (AVX-512, AMX; others
    run `model` itself): it moves probabilities by hundredths. Weights that change later are not seen.
    Raises `ModelError` as `EagerForward` does.
    """
    return EagerForward(lean_copy(model, dtype) if can_be_lean(model, dtype) else model)


class EagerForward:
    """Runs `model` as it is, on the device that it is on.

    The features are what enters the last layer of the classification head, whichever architecture it is.
    """

    def __init__(self, model: Any) -> None:
        """Take a transformers sequence-classification model. Raises `ModelError` if its head cannot be found."""
        self._model = model.eval()
        self._head = _last_layer(model)

    @property
    def num_features(self) -> int:
        return self._head.in_features

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> ClassifierOutputs:
        """Return logits [num_texts, num_labels] and features of a tokenized batch [num_texts, num_tokens]."""
        seen: list[torch.Tensor] = []
        handle = self._head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            with torch.inference_mode():
                logits = self._model(**{name: part.to(self._model.device) for name, part in batch.items()}).logits
        finally:
            handle.remove()
        return ClassifierOutputs(logits=logits.double().cpu().numpy(), features=seen[-1].double().cpu().numpy())


def _last_layer(model: Any) -> nn.Linear:
    num_labels = model.config.num_labels
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == num_labels]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layer that gives {num_labels} logits",
            where="router.base_model",
            remedy="choose another encoder, such as distilbert-base-uncased",
        )
    return layers[-1]
