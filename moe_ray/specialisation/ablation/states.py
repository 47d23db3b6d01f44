"""Start a forward pass at a later layer, from the outputs that the layers before it had in an earlier pass.

Exact: those layers would compute the same. Layers are replaced for the time of a pass, so that what the model does
before, between and after them is its own code.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from moe_ray.mixtures.sites import RoutingSite

LAYER_PATH = re.compile(r"^(.*?)\.(\d+)\.")


class LayerStates:
    """The decoder layers of a model and their outputs for one row of tokens. Empty where layers were not found."""

    def __init__(self, model: Any, sites: Sequence[RoutingSite]) -> None:
        found = [LAYER_PATH.match(site.record.module) for site in sites]
        lists = {one[1] for one in found if one}
        layers = model.get_submodule(lists.pop()) if len(lists) == 1 and all(found) else None
        self._layers: list[Any] = list(layers) if isinstance(layers, nn.ModuleList) else []
        self._place = {site.record.module: int(one[2]) for site, one in zip(sites, found, strict=True) if one}
        self._outputs: list[Any] = []

    def forget(self) -> None:
        """Keep nothing and replay nothing from now on."""
        self._layers, self._outputs = [], []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the outputs of the pass of the context, of one row."""
        self._outputs = [None] * len(self._layers)
        handles = [layer.register_forward_hook(self._keep(place)) for place, layer in enumerate(self._layers)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, place: int) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _given: Any, output: Any) -> None:
            self._outputs[place] = output

        return hook

    @contextmanager
    def replayed(self, site: RoutingSite, num_rows: int) -> Iterator[None]:
        """Let layers before that of `site` return what they returned, for each of `num_rows` equal rows."""
        place = self._place.get(site.record.module, 0) if self._layers else 0
        outputs = [_repeated(output, num_rows) for output in self._outputs[:place]]
        own = [layer.__dict__.get("forward") for layer in self._layers[:place]]
        try:
            for layer, output in zip(self._layers, outputs, strict=False):
                layer.__dict__["forward"] = lambda *_args, _output=output, **_kwargs: _output
            yield
        finally:
            for layer, forward in zip(self._layers, own, strict=False):
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.__dict__["forward"] = forward


def _repeated(output: Any, num_rows: int) -> Any:
    if isinstance(output, Tensor):
        return output.expand(num_rows, *output.shape[1:]) if output.dim() and output.shape[0] == 1 else output
    if isinstance(output, tuple):
        return tuple(_repeated(one, num_rows) for one in output)
    return output
