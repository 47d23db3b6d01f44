"""Pictures: what they show is what the reports hold, and their bytes follow from the reports alone."""

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from moe_ray.errors import UserError
from moe_ray.formatting import MINUS
from moe_ray.specialisation.ablation.report import AblationReport, make_ablation_report
from moe_ray.specialisation.pictures.canvas import CAPTIONS_FILE, Picture, on_page, png_bytes, svg_bytes, write_pictures
from moe_ray.specialisation.pictures.chosen import all_pictures
from moe_ray.specialisation.pictures.grids import colour_of
from moe_ray.specialisation.pictures.need import unit_ranks
from moe_ray.specialisation.pictures.routes import RouteColumn, flows_between
from moe_ray.specialisation.pictures.token_text import tints_of
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.report import SpecialisationReport, make_report
from tests.report.colour_vision import VISION
from tests.specialisation.made_up import EVIL, drawn_ablation, drawn_trace


@pytest.fixture(scope="module")
def trace() -> Trace:
    return drawn_trace()


@pytest.fixture(scope="module")
def report(trace: Trace) -> SpecialisationReport:
    return make_report(trace)


@pytest.fixture(scope="module")
def ablation() -> AblationReport:
    return make_ablation_report(drawn_ablation(), margin=0.1)


@pytest.fixture(scope="module")
def pictures(report: SpecialisationReport, trace: Trace, ablation: AblationReport) -> dict[str, Picture]:
    return {one.name: one for one in all_pictures(report, trace, ablation)}


def texts_of(svg: bytes) -> list[str]:
    """The letters of an SVG file; raises where it is not XML."""
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_there_is_a_picture_of_everything_that_was_measured(pictures: dict[str, Picture]) -> None:
    kinds = {re.sub(r"(-\d+|-layer-\d+)$", "", name) for name in pictures if not name.startswith("text-")}
    assert kinds == {"effects", "forest", "ranks", "lift", "entropy", "utilisation", "co-activation", "routes"}
    assert sum(name.startswith("text-") for name in pictures) == 2


def test_the_same_report_gives_the_same_bytes(
    pictures: dict[str, Picture], report: SpecialisationReport, trace: Trace, ablation: AblationReport
) -> None:
    again = {one.name: one for one in all_pictures(report, trace, ablation)}
    assert again.keys() == pictures.keys()
    for name in ("lift-1", "forest", "routes"):
        assert svg_bytes(again[name]) == svg_bytes(pictures[name])
        assert png_bytes(again[name]) == png_bytes(pictures[name])
        assert on_page(again[name]) == on_page(pictures[name])


def test_files_for_papers_hold_text_and_curves_and_no_date(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        svg = svg_bytes(picture)
        assert b"<image" not in svg
        assert b"dc:date" not in svg
        assert texts_of(svg)
        assert ET.fromstring(svg).get("width", "").endswith("pt")
        assert float(ET.fromstring(svg).get("width", "0pt").removesuffix("pt")) <= 504.1


def test_captions_say_how_many_texts_and_what_intervals_are(pictures: dict[str, Picture]) -> None:
    for name, picture in pictures.items():
        if not name.startswith("text-"):
            assert "n\N{NO-BREAK SPACE}=" in picture.caption or "n is the number of texts" in picture.caption, name
        if name in ("forest", "entropy", "ranks"):
            assert "95\N{NO-BREAK SPACE}%" in picture.caption


def test_a_lift_has_a_colour_exactly_where_it_is_significant(
    pictures: dict[str, Picture], report: SpecialisationReport
) -> None:
    lifts = [one for one in report.values if one.measure == "lift"]
    significant = [one for one in lifts if one.q_value is not None and one.q_value < 0.05]
    assert 0 < len(significant) < len(lifts)
    shown = [text for text in texts_of(svg_bytes(pictures["lift-1"])) if re.fullmatch(rf"{MINUS}?\d\.\d+", text)]
    digits = len(shown[0].rpartition(".")[2])
    wanted = [f"{one.value:.{digits}f}".replace("-", MINUS) for one in significant]
    ticks = 5
    assert len(shown) == len(wanted) + ticks
    assert set(wanted) <= set(shown)


def test_the_forest_marks_the_planted_effect_first(pictures: dict[str, Picture]) -> None:
    names = [text for text in texts_of(svg_bytes(pictures["forest"])) if text.startswith("expert")]
    assert names[0].startswith("expert 1, layer 0: law")
    assert "smaller than 0.100 (equivalence)" in pictures["forest"].caption


def test_ranks_weigh_classes_by_their_texts(ablation: AblationReport) -> None:
    costs = {unit.name: unit.cost for unit in unit_ranks(ablation)}
    assert max(costs, key=lambda name: costs[name]) == "1@0"
    assert costs["1@0"] == pytest.approx(-drawn_ablation().removed[:, 1].mean())


def test_bands_are_the_counts_of_a_plain_loop(trace: Trace) -> None:
    columns = [RouteColumn(layer=at, names=tuple("012345"), group_of=np.arange(6, dtype=np.intp)) for at in (0, 1)]
    flows = flows_between(trace, 0, *columns)
    counted = np.zeros((6, 6))
    for text in trace.tokens:
        for token in text.experts:
            counted[token[0, 0], token[1, 0]] += 1
    assert np.allclose(flows.share, counted / counted.sum())
    assert flows.share.sum() == pytest.approx(1.0)


def test_bands_of_independent_layers_are_mostly_within_their_null() -> None:
    rng = np.random.default_rng(5)
    trace = drawn_trace(seed=3)
    for text in trace.tokens:
        text.experts[:, 1] = rng.permuted(text.experts[:, 1], axis=0)
    columns = [RouteColumn(layer=at, names=tuple("012345"), group_of=np.arange(6, dtype=np.intp)) for at in (0, 1)]
    flows = flows_between(trace, 0, *columns)
    assert (flows.share > flows.high).sum() <= 4


def test_hostile_names_are_text_in_every_file(pictures: dict[str, Picture], tmp_path: Path) -> None:
    written = write_pictures(tmp_path / "p", list(pictures.values()))
    assert f"{len(pictures)} pictures as PNG and SVG" in written
    files = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert len(files) == 2 * len(pictures) + 1
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|png|txt)", name) for name in files)
    for path in (tmp_path / "p").glob("*.svg"):
        shown = path.read_text(encoding="utf-8")
        ET.fromstring(shown)
        assert "<script" not in shown
    captions = (tmp_path / "p" / CAPTIONS_FILE).read_text(encoding="utf-8")
    assert "\x1b" not in captions
    assert "\u202e" not in captions
    assert EVIL not in captions


def test_pictures_do_not_replace_a_file(pictures: dict[str, Picture], tmp_path: Path) -> None:
    (tmp_path / "p").write_text("mine")
    with pytest.raises(UserError, match="not a folder"):
        write_pictures(tmp_path / "p", list(pictures.values()))


@pytest.mark.parametrize(
    ("num_layers", "num_experts", "top_k"), [(1, 2, 1), pytest.param(3, 64, 8, marks=pytest.mark.slow)]
)
def test_small_and_large_mixtures_fit_on_a_page(num_layers: int, num_experts: int, top_k: int) -> None:
    trace = drawn_trace(num_layers=num_layers, num_experts=num_experts, top_k=top_k, labels=("a", "b"), num_texts=10)
    ablation = make_ablation_report(
        drawn_ablation(num_layers=num_layers, num_experts=num_experts, labels=("a", "b"), num_texts=14)
    )
    for picture in all_pictures(make_report(trace), trace, ablation):
        root = ET.fromstring(svg_bytes(picture))
        width, height = (float((root.get(side) or "").removesuffix("pt")) for side in ("width", "height"))
        assert width <= 504.1, picture.name
        assert height <= 740, picture.name


def test_without_classes_and_tokens_only_what_is_defined_is_drawn() -> None:
    trace = drawn_trace(labels=("",))
    names = {picture.name for picture in all_pictures(make_report(trace), None, None)}
    assert names == {"entropy", "co-activation-layer-0", "co-activation-layer-1"}


def test_an_expert_of_all_layers_has_a_row_of_its_own() -> None:
    report = make_ablation_report(drawn_ablation(whole=True))
    found = {picture.name: picture for picture in all_pictures(None, None, report)}
    assert any("all layers: law" in text for text in texts_of(svg_bytes(found["forest"])))


def test_letters_on_cells_can_be_read_and_signs_differ_for_all_eyes() -> None:
    """Below and above zero are apart for every kind of colour vision, at full and at no distance from zero."""
    for matrix in VISION.values():
        for size in (0.001, 1.0):
            below, above = (np.array(matrix) @ np.array(colour_of(sign * size, 1.0)) for sign in (-1, 1))
            assert np.abs(below - above).max() > 0.1
    greys = [np.dot([0.2126, 0.7152, 0.0722], colour_of(size, 1.0)) for size in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(earlier > later for earlier, later in itertools.pairwise(greys))


def test_the_experts_that_a_text_uses_most_are_tinted() -> None:
    tints = tints_of([3, 3, 3, 9, 9, *range(20), -1])
    assert list(tints)[:2] == [3, 9]
    assert len(tints) == 7
    assert -1 not in tints
