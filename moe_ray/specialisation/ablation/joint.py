"""Remove the strongest experts together, because each alone may be replaced by the others.

The candidates are chosen on one half of the texts, from an ablation of single experts; the sets are measured on the
other half, in a folder of their own inside it.
"""

from dataclasses import replace

from moe_ray.errors import ModelError, UserError
from moe_ray.mixtures.interventions import Intervention, require_possible
from moe_ray.specialisation.ablation.records import JOINT_FOLDER, AblationPlan, SplitRecord, read_ablation
from moe_ray.specialisation.ablation.run import AblationProgress, AblationRequest, ablate_model
from moe_ray.specialisation.ablation.split import is_for_choosing, joint_sets


def ablate_jointly(request: AblationRequest, num: int, progress: AblationProgress | None = None) -> AblationPlan:
    """Measure all pairs of the `num` strongest experts of each layer, and all `num` at once, or continue.

    `request` is that of a finished ablation of single experts. Raises `UserError` where no set can be removed.
    """
    singles = read_ablation(request.out)
    sets, refused = [], None
    for layer, experts in joint_sets(singles, num):
        chosen = Intervention(
            operation=request.options.operation, experts=experts, layers=() if layer < 0 else (layer,)
        )
        try:
            require_possible(chosen, singles.plan.layers, name=request.model)
        except ModelError as error:
            refused = error
        else:
            sets.append((layer, experts))
    if not sets:
        raise refused or UserError(
            "no two experts of one layer were removed alone", where="--joint", remedy="give more --experts"
        )
    texts = request.texts.texts
    choosing = tuple(text for text in texts if is_for_choosing(text.text_id))
    testing = tuple(text for text in texts if not is_for_choosing(text.text_id))
    inner = replace(
        request,
        out=request.out / JOINT_FOLDER,
        texts=replace(request.texts, texts=testing),
        sets=tuple(sets),
        reference=choosing,
        chosen=SplitRecord(
            num_choosing=len(choosing),
            num_testing=len(testing),
            num_chosen=len(sets),
            num_units=len(singles.plan.units),
        ),
    )
    return ablate_model(inner, progress)
