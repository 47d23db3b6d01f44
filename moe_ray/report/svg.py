"""From matplotlib figures to SVG text that follows the page's theme and repeats byte for byte."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER, BAD = "#010203", "#020304", "#030405", "#040506", "#050607"
SERIES = tuple(f"#0a0b{index:02x}" for index in range(8))
MARKERS = ("s", "o", "D", "^", "v", "P", "X", "h")
NUM_OTHERS = len(SERIES) - 1

CSS_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    BAD: "var(--bad)",
} | {colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)}
RC_PARAMS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moe_ray",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.dpi": 72,
    "path.simplify": False,
    "text.parse_math": False,
}


def theme_colour(index: int) -> str:
    """A stand-in colour for series `index`; the page's style sheet says which it is. Series 0 shares its with none."""
    return SERIES[1 + (index - 1) % NUM_OTHERS if index else 0]


def marker(index: int) -> str:
    """A shape for series `index`, so that colour alone never tells systems apart: the first 50 pairs differ."""
    turn, place = divmod(index - 1, NUM_OTHERS)
    return MARKERS[1 + (place + turn) % NUM_OTHERS if index else 0]


@contextmanager
def drawing_style() -> Iterator[None]:
    """Draw in the report's style. All of the report's figures are made within this context.

    They are matplotlib objects with an SVG canvas, so that no display backend is needed. MPLBACKEND is not read: a
    notebook's kernel names one there for its child processes, which matplotlib may not be able to load.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    with mpl.rc_context(RC_PARAMS):  # type: ignore[arg-type]
        yield


def svg_text(figure: "Figure", *, name: str, description: str) -> str:
    """Return `figure` as an SVG element to stand inside HTML. `name` makes its ids unique on the page."""
    stream = io.StringIO()
    with drawing_style(), warnings.catch_warnings():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        # The browser writes the letters, in fonts of its own; here they are only measured.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(_unique_ids(_inline(stream.getvalue(), description), name))


def _inline(text: str, description: str) -> str:
    """The svg element alone, sized by its container, with a name for screen readers."""
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', body)
    assert view is not None
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    opening = f'<svg viewBox="{view[1]}" role="img" aria-label="{label}">'
    return re.sub(r"^<svg[^>]*>", lambda _: opening, body).strip()


def _unique_ids(text: str, name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name)
    name = name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def _themed(text: str) -> str:
    for colour, variable in CSS_COLOURS.items():
        text = text.replace(colour, variable)
    return text
