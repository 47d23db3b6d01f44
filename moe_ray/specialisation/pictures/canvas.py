"""Draw a picture once, and write it for a page that follows the reader's theme and for a paper, byte for byte the same.

Sizes are in points of the printed page: a picture is 7 inches wide, the width of two columns.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moe_ray.characters import one_line, whole_characters
from moe_ray.errors import UserError
from moe_ray.files import write_atomically, write_text_atomically
from moe_ray.formatting import MINUS, plural
from moe_ray.report.svg import INK, MUTED, PAPER, RULE, SERIES, Plot, drawing_style, short, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_PT = 504.0
MAX_HEIGHT_PT = 640.0
PT_PER_INCH = 72
PNG_DPI = 300
FONT_PT, SMALL_PT, TINY_PT = 8.0, 7.0, 6.0
CAPTIONS_FILE = "captions.txt"
METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inks:
    """The colours of lines and letters: those of the page are variables of its style sheet."""

    ink: str
    muted: str
    rule: str
    paper: str
    series: tuple[str, ...]


ON_PAGE = Inks(ink=INK, muted=MUTED, rule=RULE, paper=PAPER, series=SERIES)
# The series of the page's print style, which tests/report/test_colours.py measures.
ON_PAPER = Inks(
    ink="#000000",
    muted="#444444",
    rule="#cccccc",
    paper="#ffffff",
    series=("#000000", "#0072b2", "#a21c0d", "#397245", "#a84276", "#c97a16", "#499bbb", "#97935a"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that can be drawn in different inks. `name` is that of its files, without a suffix.

    The caption says what is shown, of how many texts, and what the interval is. `described` is for screen readers.
    `is_mono`: its letters are of one width.
    """

    name: str
    title: str
    caption: str
    described: str
    draw: Callable[[Inks], "Figure"]
    is_mono: bool = False


def file_stem(*parts: object) -> str:
    """Return a name for files of letters, digits and hyphens; different parts give different names."""
    whole = "-".join(map(str, parts))
    plain = re.sub(r"[^A-Za-z0-9]+", "-", whole).strip("-").lower()[:60]
    return whole if plain == whole else f"{plain}-{hashlib.sha256(whole_characters(whole).encode()).hexdigest()[:8]}"


@contextmanager
def picture_style(inks: Inks) -> Iterator[None]:
    """Draw with the letters and lines of print."""
    with drawing_style():
        import matplotlib as mpl

        colours = {
            "text.color": inks.ink,
            "axes.edgecolor": inks.muted,
            "axes.labelcolor": inks.ink,
            "axes.titlecolor": inks.ink,
            "xtick.color": inks.muted,
            "ytick.color": inks.muted,
        }
        sizes = {"font.size": FONT_PT, "axes.titlesize": FONT_PT, "axes.labelsize": FONT_PT, "axes.linewidth": 0.6}
        with mpl.rc_context({**colours, **sizes}):  # type: ignore[dict-item]
            yield


def blank(height_pt: float, *, width_pt: float = WIDTH_PT) -> "Figure":
    """Return an empty figure without a background."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_pt / PT_PER_INCH, height_pt / PT_PER_INCH))
    figure.patch.set_alpha(0)
    return figure


def axes_at(figure: "Figure", inks: Inks, place: tuple[float, float, float, float]) -> "Axes":
    """Return axes at left, top, width and height in points from the upper left corner."""
    width, height = figure.get_size_inches() * PT_PER_INCH
    left, top, own_width, own_height = place
    axes = figure.add_axes((left / width, 1 - (top + own_height) / height, own_width / width, own_height / height))
    axes.patch.set_alpha(0)
    # Ticks that are made while a figure is saved would follow the page's style.
    axes.tick_params(labelsize=SMALL_PT, labelcolor=inks.ink, color=inks.muted, length=2, width=0.6)
    axes.grid(visible=False)
    return axes


def on_page(picture: Picture) -> Plot:
    """Return the picture for the page, as an SVG element in the page's colours."""
    with picture_style(ON_PAGE):
        figure = picture.draw(ON_PAGE)
    svg = svg_text(figure, name=picture.name, description=one_line(f"{picture.title}. {picture.described}"))
    return Plot(title=picture.title, caption=picture.caption, svg=svg)


def svg_bytes(picture: Picture) -> bytes:
    """Return the picture for a paper as an SVG file, whose letters are text."""
    stream = io.BytesIO()
    with _printed(picture) as figure:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata=METADATA)
    return stream.getvalue()


def png_bytes(picture: Picture) -> bytes:
    """Return the picture for a paper as a PNG file on white, 300 dots an inch."""
    stream = io.BytesIO()
    with _printed(picture) as figure:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
        figure.savefig(stream, format="png", dpi=PNG_DPI, facecolor=ON_PAPER.paper, metadata={"Software": None})
    return stream.getvalue()


@contextmanager
def _printed(picture: Picture) -> Iterator["Figure"]:
    with picture_style(ON_PAPER), warnings.catch_warnings():
        # A reader of the SVG has other fonts; a PNG shows a box for a letter that DejaVu lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = picture.draw(ON_PAPER)
        figure.patch.set_alpha(1)
        figure.patch.set_facecolor(ON_PAPER.paper)
        yield figure


def write_pictures(directory: Path, pictures: Sequence[Picture]) -> str:
    """Write each picture as PNG and SVG, and all captions as text; returns what was written, in words.

    Files of other names in the folder stay. Raises `UserError` for a path that is not a folder.
    """
    require_folder_or_nothing(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        for suffix, content in (("svg", svg_bytes(picture)), ("png", png_bytes(picture))):
            write_atomically(directory / f"{picture.name}.{suffix}", partial(_write_bytes, content))
    lines = [f"{picture.name}\n{one_line(f'{picture.title}. {picture.caption}')}\n" for picture in pictures]
    write_text_atomically(directory / CAPTIONS_FILE, "\n".join(lines))
    return f"{plural(len(pictures), 'picture')} as PNG and SVG, captions in {CAPTIONS_FILE}"


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def require_folder_or_nothing(directory: Path) -> None:
    """Raise `UserError` for a path that exists and is not a folder."""
    if directory.exists() and not directory.is_dir():
        raise UserError("exists and is not a folder", where=str(directory), remedy="name a folder for the pictures")


def shown_name(name: str, most: int) -> str:
    """Return a name from the data as one printable line of at most `most` letters."""
    return short(one_line(name), most)


def tick_number(value: float, digits: int) -> str:
    """Return a number for a tick, with a real minus sign and no sign at zero."""
    text = f"{value:.{digits}f}"
    return (text[1:] if float(text) == 0 and text.startswith("-") else text).replace("-", MINUS)
