"""All pictures of a trace and an ablation, in the order of the page."""

from collections.abc import Iterator

from moe_ray.specialisation.ablation.report import AblationReport
from moe_ray.specialisation.pictures.canvas import Picture
from moe_ray.specialisation.pictures.need import pictures_of_need
from moe_ray.specialisation.pictures.routes import route_pictures
from moe_ray.specialisation.pictures.token_text import text_pictures
from moe_ray.specialisation.pictures.use import pictures_of_use
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.report import SpecialisationReport


def all_pictures(
    report: SpecialisationReport | None, trace: Trace | None, ablation: AblationReport | None
) -> Iterator[Picture]:
    """Yield what the reports can show: need before use. `trace` gives the routes and the texts."""
    if ablation is not None:
        yield from pictures_of_need(ablation)
    if report is not None:
        yield from pictures_of_use(report)
        if trace is not None:
            yield from route_pictures(report, trace)
            yield from text_pictures(report, trace)
