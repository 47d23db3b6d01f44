"""The page and the pictures of traces and ablations, as the commands `report` and `effects` write them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_ray.errors import UserError
from moe_ray.files import write_text_atomically
from moe_ray.specialisation.ablation.records import AblationPlan
from moe_ray.specialisation.ablation.report import AblationReport
from moe_ray.specialisation.page.render import render_page
from moe_ray.specialisation.pictures.canvas import require_folder_or_nothing, write_pictures
from moe_ray.specialisation.pictures.chosen import all_pictures
from moe_ray.specialisation.records import Trace, TraceManifest
from moe_ray.specialisation.report import SpecialisationReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOutput:
    """Where the page and the pictures go; None: nowhere."""

    html: Path | None = None
    pictures: Path | None = None

    def require_writable(self) -> None:
        """Raise `UserError` for paths that hold something else, before anything is computed."""
        if self.html is not None and self.html.is_dir():
            raise UserError("is a folder", where=str(self.html), remedy="name a file for the page, such as report.html")
        for path in (self.html, self.pictures):
            for parent in path.absolute().parents if path is not None else ():
                require_folder_or_nothing(parent)
        if self.pictures is not None:
            require_folder_or_nothing(self.pictures)

    def write(
        self, report: SpecialisationReport | None, trace: Trace | None, ablation: AblationReport | None
    ) -> list[str]:
        """Write what is asked for, and return a line for each."""
        if self.html is None and self.pictures is None:
            return []
        pictures, lines = list(all_pictures(report, trace, ablation)), []
        if self.html is not None:
            write_text_atomically(self.html, render_page(report, ablation, pictures))
            lines.append(f"Page: {self.html}")
        if self.pictures is not None:
            lines.append(f"Pictures: {self.pictures} ({write_pictures(self.pictures, pictures)})")
        return lines


def require_same_model(traced: TraceManifest, ablated: AblationPlan, names: Sequence[str]) -> None:
    """Raise `UserError` for a trace and an ablation of different models, or of experts that do not fit."""
    if traced.model_fingerprint != ablated.model_fingerprint:
        raise UserError(
            f"is an ablation of {ablated.model}, and {names[0]} a trace of {traced.model}: their weights differ",
            where=names[1],
            remedy="give a trace and an ablation of one model",
        )
