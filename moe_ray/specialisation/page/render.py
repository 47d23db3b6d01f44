"""Render the page of a trace, an ablation, or both. Needs no model, no torch and no network."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import moe_ray
from moe_ray.characters import one_line
from moe_ray.formatting import count, plural
from moe_ray.report.text_table import TextTable
from moe_ray.specialisation.ablation.report import AblationReport
from moe_ray.specialisation.ablation.tables import effects_table, summary_lines
from moe_ray.specialisation.page.experts import ExpertLine, expert_lines, headline
from moe_ray.specialisation.page.method import method_of
from moe_ray.specialisation.pictures.canvas import WIDTH_PT, Picture, on_page
from moe_ray.specialisation.report import SpecialisationReport
from moe_ray.specialisation.tables import class_table, layer_table

if TYPE_CHECKING:
    from rich.table import Column

MAX_FOUND = 24
MAX_TABLE_ROWS = 500
FULL_WIDTH_REM = 54


@dataclass(frozen=True, slots=True, kw_only=True)
class TableView:
    """A table of the page. `is_words`: its cells are sentences."""

    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left_out: int = 0
    is_words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureView:
    """A picture of the page as an SVG element. `is_mono`: its letters are of one width."""

    title: str
    caption: str
    svg: str
    is_mono: bool


def render_page(
    trace: SpecialisationReport | None, ablation: AblationReport | None, pictures: Sequence[Picture]
) -> str:
    """Return the whole page; the same reports give the same page. At least one of them is given."""
    from jinja2 import Environment, StrictUndefined

    own, common = files("moe_ray.specialisation.page") / "templates", files("moe_ray.report") / "templates"
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names and classes come from the data: what is no printable letter is escaped where it is written.
        finalize=lambda value: one_line(value) if type(value) is str else value,
    )
    environment.filters["count"] = count
    template = environment.from_string((own / "specialisation.html.j2").read_text(encoding="utf-8"))
    lines = expert_lines(trace, ablation)
    found = [line for line in lines if line.is_found]
    return template.render(
        css="\n".join(path.read_text(encoding="utf-8") for path in (common / "report.css", own / "specialisation.css")),
        name=trace.model if trace is not None else ablation.model if ablation is not None else "",
        about=", ".join(_about(trace, ablation)),
        headline=headline(lines, trace, ablation),
        found=found[:MAX_FOUND],
        num_found=len(found),
        agreement=summary_lines(ablation) if ablation is not None else [],
        notes=_notes(trace, ablation),
        pictures=[_picture(picture) for picture in pictures],
        tables=[_table(table) for table in _tables(trace, ablation)],
        all_experts=_all_experts(lines),
        method=method_of(trace, ablation),
        version=moe_ray.__version__,
    )


def _about(trace: SpecialisationReport | None, ablation: AblationReport | None) -> Iterator[str]:
    if trace is not None:
        yield trace.model_type
        yield f"traced on {plural(trace.num_texts, 'text')} of {_classes(trace.classes)}"
        yield f"{plural(trace.num_tokens, trace.unit)} counted, {count(trace.num_masked)} masked"
    if ablation is not None:
        removed = f"{plural(len(ablation.units), 'expert')} removed in turn ({ablation.operation})"
        yield f"{removed} on {plural(ablation.num_texts, 'text')} of {_classes(ablation.classes)}"
        yield f"score in {ablation.unit}"


def _classes(classes: dict[str, int]) -> str:
    return f"{len(classes)} class" if len(classes) == 1 else f"{len(classes)} classes"


def _notes(trace: SpecialisationReport | None, ablation: AblationReport | None) -> list[str]:
    found = [*(trace.notes if trace is not None else ()), *(ablation.notes if ablation is not None else ())]
    return list(dict.fromkeys(found))


def _tables(trace: SpecialisationReport | None, ablation: AblationReport | None) -> Iterator[TextTable]:
    if ablation is not None:
        yield effects_table(ablation)
    if trace is not None:
        yield layer_table(trace)
        if trace.classes:
            yield class_table(trace)


def _table(table: TextTable) -> TableView:
    """Return the cells of a table for the terminal, so that both say the same."""
    columns = [_cells(column) for column in table.columns]
    rows = list(zip(*columns, strict=True))
    return TableView(
        title=str(table.title),
        titles=[str(column.header) for column in table.columns],
        rows=rows[:MAX_TABLE_ROWS],
        num_left_out=max(0, len(rows) - MAX_TABLE_ROWS),
    )


def _cells(column: "Column") -> list[str]:
    return [str(cell) for cell in column.cells]


def _all_experts(lines: Sequence[ExpertLine]) -> TableView:
    rows = [(line.name, line.use, line.cost) for line in lines]
    return TableView(
        title=f"{plural(len(lines), 'expert')}, the most certain first",
        titles=("expert", "use", "removal"),
        rows=rows[:MAX_TABLE_ROWS],
        num_left_out=max(0, len(rows) - MAX_TABLE_ROWS),
        is_words=True,
    )


def _picture(picture: Picture) -> PictureView:
    """Return a picture, in the size of its letters on all of the page."""
    plot = on_page(picture)
    view = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) [\d.]+"', plot.svg)
    assert view is not None
    width = f'<svg style="max-width: {FULL_WIDTH_REM * float(view[1]) / WIDTH_PT:.2f}rem" '
    return PictureView(
        title=plot.title,
        caption=plot.caption,
        svg=plot.svg.replace("<svg ", width, 1),
        is_mono=picture.is_mono,
    )
