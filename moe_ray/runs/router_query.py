"""Models that a router needs beyond the matrix: the experts of domains that it chose for an example."""

from collections import defaultdict

from moe_ray.config.schema import ExperimentConfig
from moe_ray.planning.plan import Asked
from moe_ray.store.routes import Routes


def asked_by_routing(config: ExperimentConfig, routes: Routes) -> Asked:
    """Return the examples that `routes` sends to a model that the matrix does not assign their domain.

    A domain without an expert is the baseline's, which answers everything. The cascade asks nothing more: it turns
    some of these examples to the baseline.
    """
    experts = [config.domains[name].expert if name in config.domains else None for name in routes.domains]
    assigned = {domain: frozenset(config.models_of(domain)) for domain in config.domains}
    asked: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for domain, example_id, chosen in zip(routes.example_domains, routes.example_ids, routes.chosen, strict=True):
        expert = experts[chosen]
        if domain in assigned and expert is not None and expert not in assigned[domain]:
            asked[domain, expert].add(example_id)
    return {place: frozenset(asked[place]) for place in sorted(asked)}
