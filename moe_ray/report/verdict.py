"""The run's conclusion in plain words: who wins where, by how much, and how sure that is."""

from dataclasses import dataclass

from moe_ray.comparison.records import PairedComparison, Summary
from moe_ray.comparison.systems import BASELINE, EXPERTS
from moe_ray.report.format import interval, number, p_phrase, plural, signed
from moe_ray.report.views import DomainView, MetricView, domain_views


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainVerdict:
    """One domain's sentence. `winner` is a system's name, or None when no difference was shown or tested."""

    domain: str
    winner: str | None
    sentence: str
    figures: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The one sentence, and one for each domain."""

    sentence: str
    domains: tuple[DomainVerdict, ...]


def headline(summary: Summary, system: str = EXPERTS) -> Headline:
    """Conclude from each domain's first metric."""
    verdicts = tuple(_domain_verdict(view, system) for view in domain_views(summary))
    return Headline(sentence=_lead(verdicts, system), domains=verdicts)


def _lead(verdicts: tuple[DomainVerdict, ...], system: str) -> str:
    tested = [verdict for verdict in verdicts if verdict.figures]
    if not tested:
        return f"This run does not compare the {system} with the {BASELINE}."
    wins = sum(verdict.winner == system for verdict in tested)
    losses = sum(verdict.winner == BASELINE for verdict in tested)
    if wins == len(tested):
        return f"The {system} beat the {BASELINE} {_in_all(wins)}."
    if losses == len(tested):
        return f"The {BASELINE} beats the {system} {_in_all(losses)}."
    if not wins and not losses:
        return f"No difference between the {system} and the {BASELINE} was shown {_in_any(len(tested))}."
    return _mixed(wins, losses, len(tested), system)


def _in_all(num_domains: int) -> str:
    if num_domains == 1:
        return "in the one domain tested"
    return "in both domains" if num_domains == 2 else f"in all {num_domains} domains"


def _in_any(num_domains: int) -> str:
    return "in the one domain tested" if num_domains == 1 else f"in any of the {num_domains} domains"


def _mixed(wins: int, losses: int, num_domains: int, system: str) -> str:
    parts = []
    if wins:
        parts.append(f"the {system} beat the {BASELINE} in {wins} of {num_domains} domains")
    if losses:
        parts.append(f"the {BASELINE} beats the {system} in {losses} of {num_domains}")
    if num_domains - wins - losses:
        parts.append(f"no difference was shown in {num_domains - wins - losses}")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:]


def _domain_verdict(view: DomainView, system: str) -> DomainVerdict:
    metric = view.metrics[0]
    comparison = next((item for item in metric.comparisons if item.system_a == system), None)
    if comparison is None or comparison.verdict == "not_tested":
        return DomainVerdict(domain=view.name, winner=None, sentence="There was nothing to compare.", figures="")
    winner = {"a_better": comparison.system_a, "b_better": comparison.system_b}.get(comparison.verdict)
    return DomainVerdict(
        domain=view.name,
        winner=winner,
        sentence=_sentence(comparison, metric, winner),
        figures=_figures(comparison),
    )


def _sentence(comparison: PairedComparison, metric: MetricView, winner: str | None) -> str:
    values = f"{metric.title} {number(comparison.value_a)} against {number(comparison.value_b)}"
    if winner is None:
        return f"No difference shown between the {comparison.system_a} and the {comparison.system_b}: {values}."
    loser = comparison.system_b if winner == comparison.system_a else comparison.system_a
    if winner == comparison.system_b:
        values = f"{metric.title} {number(comparison.value_b)} against {number(comparison.value_a)}"
    return f"The {winner} {'beat' if winner == EXPERTS else 'beats'} the {loser}: {values}."


def _figures(comparison: PairedComparison) -> str:
    bounds = interval(comparison.low, comparison.high)
    return (
        f"difference {signed(comparison.difference)}, 95 % interval {bounds}, "
        f"{p_phrase(comparison.p_adjusted)}, {plural(comparison.n_pairs, 'paired example')}"
    )
