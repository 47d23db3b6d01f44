"""What the page says of its method and its limits."""

from collections.abc import Iterator

from moe_ray.specialisation.ablation.report import AblationReport
from moe_ray.specialisation.measures import MIN_TEXTS
from moe_ray.specialisation.over_texts import NUM_PERMUTATIONS
from moe_ray.specialisation.report import ALPHA, SpecialisationReport


def method_of(trace: SpecialisationReport | None, ablation: AblationReport | None) -> list[tuple[str, str]]:
    """Return terms and texts, of what was measured alone."""
    return [*_common(), *(_of_trace(trace) if trace else ()), *(_of_ablation(ablation) if ablation else ())]


def _common() -> Iterator[tuple[str, str]]:
    yield (
        "Unit",
        "Texts are the unit of every null, interval and test: the tokens of one text are alike. Intervals are 95 % "
        "intervals over texts and are not adjusted for their number.",
    )
    yield (
        "Significant",
        f"q below {ALPHA}: the p-value adjusted over a named family of tests by Benjamini-Hochberg. Of what is called "
        "significant, about 5 % is expected to be chance.",
    )


def _of_trace(trace: SpecialisationReport) -> Iterator[tuple[str, str]]:
    yield (
        "Use",
        f"Lift is a class's share of selections of an expert over the share in the classes together, which weigh the "
        f"same. Its null permutes the classes of whole texts {NUM_PERMUTATIONS} times; its test is a t test with the "
        f"jackknife's error. Classes of fewer than {MIN_TEXTS} texts are not compared.",
    )
    if trace.unit == "text":
        yield (
            "Router",
            "This router decides once for a whole text, and its experts are models or domains. A selection is the most "
            "probable expert.",
        )
    yield (
        "Use is not need",
        "A router can select an expert for most tokens without the model needing it. Only removals show need. A "
        "difference of use is not a difference of what experts compute: routers follow words.",
    )


def _of_ablation(ablation: AblationReport) -> Iterator[tuple[str, str]]:
    yield (
        "Cost of removal",
        f"The mean change of a text's score ({ablation.unit}) when the expert is removed by {ablation.operation}. The "
        f"test is of the specific effect: that change less the mean of {ablation.num_draws} control draws, which "
        "remove as many selections of the same rank from other experts of the layer, text by text.",
    )
    yield (
        "Beyond the other classes",
        "The selective effect: the specific effect on a class less the mean of those on the other tested classes.",
    )
    yield ("Family", f"{ablation.family}.")
    yield (
        "Limits",
        "Other experts take over a part of what was removed, so that effects are lower bounds, and two experts that "
        "stand in for each other each show none. Effects are those of this checkpoint on these texts; another training "
        "seed can give its experts other work. No significant effect is not the same as no effect: the table says what "
        "could have been seen.",
    )
    if ablation.no_headroom:
        yield (
            "No headroom",
            "Where the intact model is at chance, its accuracy cannot fall, whatever is removed; the score still can.",
        )
