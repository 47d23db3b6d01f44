"""Mean answers of experts to the texts for choosing, as the ablation reads them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from torch import Tensor

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.transformers.loading import LoadedModel
from moe_ray.formatting import listed
from moe_ray.mixtures.sites import RoutingSite
from moe_ray.specialisation.ablation.scoring import row_reader, scored_texts
from moe_ray.specialisation.mean_answers import mean_answers
from moe_ray.specialisation.texts import SourceText

MAX_NAMED = 5


def reference_means(
    texts: Sequence[SourceText],
    loaded: LoadedModel,
    config: ModelConfig,
    sites: Sequence[RoutingSite],
    *,
    max_tokens: int,
) -> tuple[list[Tensor], list[str]]:
    """Return the mean answers of each site's experts [E, H] to these texts, and a note on experts without one."""
    read = row_reader(loaded)

    def passes() -> Iterator[Callable[[], object]]:
        for text in scored_texts(texts, loaded, config, max_tokens=max_tokens):
            for row in () if text is None else text.rows:
                yield partial(read, [row])

    found = mean_answers(sites, passes())
    without = [
        f"{expert} of layer {site.record.layer}"
        for site, means in zip(sites, found, strict=True)
        for expert, number in enumerate(means.counts_E.tolist())
        if not number
    ]
    notes = []
    if without:
        more = f" and {len(without) - MAX_NAMED} more" if len(without) > MAX_NAMED else ""
        notes = [
            f"no text for choosing selects expert {listed(without[:MAX_NAMED])}{more}: its mean answer is taken as 0"
        ]
    return [means.answers_EH for means in found], notes
