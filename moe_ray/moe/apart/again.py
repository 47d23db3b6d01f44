"""A mixture of experts that were trained apart, held against the checkpoints that its certificate names."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from moe_ray.moe.apart.assemble import layer_verdicts, plan_mixture
from moe_ray.moe.comparing import GATE, Finding, compare_exactness, compare_layers, compare_tensors
from moe_ray.moe.exactness import experts_exactness
from moe_ray.moe.records import Certificate
from moe_ray.moe.source import read_config
from moe_ray.moe.tensors import TensorReader
from moe_ray.moe.upcycle.convert import convert

TRAINED = ", then trained in the mixture"


def recompute(directory: Path, certificate: Certificate, paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Put the experts together again and compare all that was not trained; then each expert alone with its own.

    `paths` are the sources' by name. Gates, and experts that finetune trained, come from texts: that they have not
    changed, the files' hashes tell. Needs room for one more mixture.
    """
    config = read_config(directory)
    anchor, *experts = [source.name for source in certificate.sources]
    plan = plan_mixture(paths[anchor], [paths[name] for name in experts], top_k=config.num_experts_per_tok, seed=0)
    kept = [origin for origin in certificate.tensors if origin.how != GATE and not origin.how.endswith(TRAINED)]
    with tempfile.TemporaryDirectory(prefix="moe-ray-verify-") as folder:
        again = Path(folder) / "again"
        convert(plan, again)
        yield compare_tensors(TensorReader(directory), TensorReader(again), kept)
    yield compare_layers(certificate.layers, layer_verdicts(config))
    found = experts_exactness(directory, {name: paths[name] for name in experts})
    yield from compare_exactness(certificate.exactness, found)
