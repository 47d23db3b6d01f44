"""A text whose tokens are coloured by their first expert in a layer, with the expert's number below each token."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from moe_ray.characters import one_line
from moe_ray.formatting import plural
from moe_ray.specialisation.pictures.canvas import WIDTH_PT, Inks, Picture, axes_at, blank, file_stem, shown_name
from moe_ray.specialisation.records import Trace
from moe_ray.specialisation.report import SpecialisationReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Light enough for black letters; the numbers say which expert it is where colours cannot.
TINTS = ("#bcd7ee", "#fdcf9b", "#c5e8be", "#d9d3ea", "#fab7a5", "#f2ec9f", "#d4d4d4")
MAX_TEXTS, MAX_TOKENS, WANTED_TOKENS = 4, 120, 80
LETTER_PT, NUMBER_PT = 7.5, 5.0
ADVANCE = 0.602  # of DejaVu Sans Mono, in parts of its size
LINE_PT, BOX_PT, PAD_PT = 21.0, 9.6, 1.4
SIDE_PT = 8.0


class _Token(NamedTuple):
    """A token where it is drawn, in points from the upper left corner."""

    piece: str
    expert: int
    left: float
    top: float
    width: float


def text_pictures(report: SpecialisationReport, trace: Trace) -> Iterator[Picture]:
    """Yield a text of each of up to four classes, in the layer whose use differs most between classes."""
    if not trace.tokens or not trace.pieces or not trace.text_ids:
        return
    at = _layer(report)
    layer = report.layers[at].layer
    for place in chosen_texts(trace):
        text = trace.tokens[place]
        ids = text.token_ids[:MAX_TOKENS].tolist()
        experts = text.experts[:MAX_TOKENS, at, 0].tolist()
        pieces = [trace.pieces.get(token, "?") for token in ids]
        tinted = tints_of(experts)
        label = trace.labels[place]
        caption = (
            f"The first choice of each token in layer {layer}, its expert below it. Coloured: the "
            f"{plural(len(tinted), 'expert')} that this text uses most. Text {trace.text_ids[place]}"
            f"{f', class {label}' if label else ''}; {len(ids)} of {plural(len(text.token_ids), 'token')}, those that "
            "do not count are left out. One text, chosen by its length: an illustration, not a measurement."
        )
        yield Picture(
            name=file_stem("text", label, trace.text_ids[place]),
            title=f"A text by expert{f': {label}' if label else ''}",
            caption=caption,
            described=" ".join(f"{one_line(piece)}[{expert}]" for piece, expert in zip(pieces, experts, strict=True)),
            draw=partial(_figure, pieces, experts, tinted, report),
            is_mono=True,
        )


def _layer(report: SpecialisationReport) -> int:
    excess = {one.layer: one.excess or 0.0 for one in report.values if one.measure == "generalised_js"}
    return max(range(len(report.layers)), key=lambda at: (excess.get(report.layers[at].layer, 0.0), -at))


def chosen_texts(trace: Trace) -> list[int]:
    """Return the places of a text per class, at most four: those whose number of tokens is nearest to 80."""
    found = []
    for label in sorted(set(trace.labels))[:MAX_TEXTS]:
        own = [place for place, one in enumerate(trace.labels) if one == label]
        found.append(min(own, key=lambda place: (abs(len(trace.tokens[place].token_ids) - WANTED_TOKENS), place)))
    return found


def tints_of(experts: Sequence[int]) -> dict[int, str]:
    """Return colours for the experts that occur most, the same for the same text."""
    ordered = sorted(Counter(expert for expert in experts if expert >= 0).items(), key=lambda one: (-one[1], one[0]))
    return {expert: TINTS[at] for at, (expert, _) in enumerate(ordered[: len(TINTS)])}


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _placed(pieces: Sequence[str], experts: Sequence[int], names: Sequence[str]) -> Iterator[_Token]:
    left, top = SIDE_PT, 4.0
    for piece, expert, name in zip(pieces, experts, names, strict=True):
        shown = shown_name(piece.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"), 40)
        width = max(LETTER_PT * ADVANCE * _columns(shown), NUMBER_PT * 0.62 * len(name)) + 2 * PAD_PT
        if left + width > WIDTH_PT - SIDE_PT:
            left, top = SIDE_PT, top + LINE_PT
        yield _Token(shown, expert, left, top, width)
        left += width


def _figure(
    pieces: Sequence[str],
    experts: Sequence[int],
    tinted: Mapping[int, str],
    report: SpecialisationReport,
    inks: Inks,
) -> "Figure":
    from matplotlib.patches import Rectangle

    names = [shown_name(report.expert_name(expert), 8) if expert >= 0 else "" for expert in experts]
    tokens = list(_placed(pieces, experts, names))
    height = max(token.top for token in tokens) + LINE_PT + 4
    figure = blank(height)
    axes = axes_at(figure, inks, (0, 0, WIDTH_PT, height))
    axes.set_xlim(0, WIDTH_PT)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    for token, name in zip(tokens, names, strict=True):
        tint = tinted.get(token.expert)
        if tint:
            axes.add_patch(
                Rectangle((token.left + 0.3, token.top), token.width - 0.6, BOX_PT, facecolor=tint, linewidth=0)
            )
        axes.text(token.left + PAD_PT, token.top + BOX_PT / 2, token.piece, fontsize=LETTER_PT, family="monospace",
                  va="center_baseline", color="#000000" if tint else inks.ink)  # fmt: skip
        axes.text(token.left + token.width / 2, token.top + BOX_PT + 4.2, name, fontsize=NUMBER_PT, ha="center",
                  va="center", color=inks.muted)  # fmt: skip
    return figure
