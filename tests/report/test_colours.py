"""The page's colours, measured: contrast after WCAG 2, and how far series are apart for every kind of colour vision.

Colour blindness is simulated after Machado, Oliveira and Fernandes (2009), severity 1, in linear sRGB. Distances are
Euclidean in CIE L*a*b* under D65 (CIE 1976), where about 2.3 is just noticeable.
"""

import itertools
import re
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pytest

from moe_ray.report.routing_plots import MAX_FILL, PARTS
from moe_ray.report.svg import CSS_COLOURS, MARKERS, SERIES, marker, theme_colour
from tests.report.colour_vision import VISION

Colours = dict[str, str]
Vector = npt.NDArray[np.float64]

MIN_TEXT_CONTRAST, MIN_MARK_CONTRAST = 4.5, 3.0
MIN_DISTANCE = {"usual": 25.0, "protan": 12.0, "deutan": 12.0, "tritan": 12.0}
XYZ_OF_RGB = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
TEXT_ON_GROUND = [
    *itertools.product(("ink", "muted", "link", "good", "bad", "warn"), ("paper",)),
    ("ink", "panel"),
    ("ink", "warn-paper"),
    ("warn", "warn-paper"),
]


def themes() -> dict[str, Colours]:
    """The style sheet's variables on the screen, light and dark, and on paper."""
    css = (files("moe_ray.report") / "templates" / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    found = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})\b", block)) for block in blocks]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def rgb(colour: str) -> Vector:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return np.array([int(digits[at : at + 2], 16) for at in (0, 2, 4)])


def linear(colour: str) -> Vector:
    values = rgb(colour) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    low, high = sorted(float(XYZ_OF_RGB[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Vector) -> Vector:
    share = (XYZ_OF_RGB @ np.clip(rgb, 0, 1)) / XYZ_OF_RGB.sum(axis=1)
    x, y, z = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colours: list[str], vision: str) -> tuple[float, str, str]:
    seen = {colour: lab(VISION[vision] @ linear(colour)) for colour in colours}
    return min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in itertools.combinations(colours, 2))


def series(colours: Colours) -> list[str]:
    return [colours[f"series-{at}"] for at in range(len(SERIES))]


def test_the_measures_agree_with_known_values() -> None:
    """WCAG's extremes and its well-known just-too-pale grey; L*a*b* of white, black and sRGB's red; grey stays grey."""
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    for matrix in VISION.values():
        assert matrix.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_red_and_green_that_only_some_can_tell_apart_would_be_found() -> None:
    assert (
        closest(["#9a6a2a", "#7a7a2a"], "deutan")[0] < MIN_DISTANCE["deutan"] < closest(["#000", "#fff"], "deutan")[0]
    )


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON_GROUND)
def test_text_stands_out_from_its_ground(theme: str, text: str, ground: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[text], colours[ground]) >= MIN_TEXT_CONTRAST


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_counts_can_be_read_on_every_cell_of_a_confusion_matrix(theme: str, share: float) -> None:
    """Browsers blend in sRGB: a cell is its fill over the paper, as opaque as its share of the row."""
    colours = themes()[theme]
    opacity = MAX_FILL * share
    mixed = opacity * rgb(colours["muted"]) + (1 - opacity) * rgb(colours["paper"])
    cell = "#" + "".join(f"{round(part):02x}" for part in mixed)
    assert contrast(colours["ink"], cell) >= MIN_TEXT_CONTRAST


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize("vision", list(VISION))
def test_no_two_parts_of_a_regret_look_alike_to_anyone_and_all_have_an_edge(theme: str, vision: str) -> None:
    colours = themes()[theme]
    faces, edges = (
        [colours[CSS_COLOURS[part[at]].removeprefix("var(--").removesuffix(")")] for part in PARTS.values()]
        for at in (1, 2)
    )
    assert closest(faces, vision)[0] >= MIN_DISTANCE[vision]
    assert min(contrast(edge, colours["paper"]) for edge in edges) >= MIN_MARK_CONTRAST


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_marks_stand_out_from_the_paper(theme: str) -> None:
    colours = themes()[theme]
    assert min(contrast(colour, colours["paper"]) for colour in series(colours)) >= MIN_MARK_CONTRAST


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
@pytest.mark.parametrize("vision", list(VISION))
def test_no_two_series_look_alike_to_anyone(theme: str, vision: str) -> None:
    distance, first, second = closest(series(themes()[theme]), vision)
    assert distance >= MIN_DISTANCE[vision], f"{first} and {second}"


def test_colour_and_mark_together_tell_fifty_series_apart_and_the_baselines_are_its_own() -> None:
    pairs = [(theme_colour(at), marker(at)) for at in range(50)]
    assert len(set(pairs)) == len(pairs)
    assert [pair for pair in pairs if pair[0] == SERIES[0] or pair[1] == MARKERS[0]] == pairs[:1]
    assert len({mark for _, mark in pairs[:8]}) == 8
