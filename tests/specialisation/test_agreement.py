"""Agreement of gates and routers, against closed forms and scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from moe_ray.mixtures.layers import TracedLayer
from moe_ray.specialisation.agreement import DecisionAgreement, measure_agreement
from moe_ray.specialisation.decisions import decision
from moe_ray.specialisation.records import Trace, TraceManifest, read_trace
from moe_ray.specialisation.writing import TextTrace, text_at, write_trace
from tests.specialisation.planted import trace_of_counts
from tests.support.commands import Command

NAMES = ("law", "bio", "code")


def written(folder: Path, chosen: dict[str, str], labels: dict[str, str], names: tuple[str, ...] = NAMES) -> Trace:
    """A trace of decisions; the order of the experts may differ from trace to trace."""
    layer = TracedLayer(layer=0, module="router", num_experts=len(names), top_k=1, scores="probabilities")
    manifest = TraceManifest(
        moe_ray_version="0", model="m", model_type="router", model_fingerprint="0", unit="text", layers=[layer],
        expert_names=list(names), settings={}, num_texts=0, num_tokens=0, num_masked=0,
    )  # fmt: skip
    texts = [
        TextTrace(
            text_id=text, label=labels.get(text, ""), num_tokens=1, num_masked=0,
            layers=(decision(np.array([0.8 if name == one else 0.1 for name in names])),),
        )
        for text, one in sorted(chosen.items())
    ]  # fmt: skip
    write_trace(folder, manifest, texts)
    return read_trace(folder)


def drawn(seed: int, num: int = 60) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    return {f"{at:03}": NAMES[int(rng.integers(3))] for at in range(num)}


def test_shares_and_kappas_are_scikit_learns(tmp_path: Path) -> None:
    labels, gate, router = drawn(1), drawn(2), drawn(3)
    gate |= {text: labels[text] for text in list(labels)[:40]}
    traces = [
        written(tmp_path / "gate", gate, labels),
        written(tmp_path / "router", dict(list(router.items())[:50]), labels, names=NAMES[::-1]),
    ]
    found = measure_agreement(traces, ["gate", "router"])
    deciders = {"gate": gate, "router": dict(list(router.items())[:50]), "classes": labels}
    assert [(one.one, one.other) for one in found] == [("gate", "router"), ("gate", "classes"), ("router", "classes")]
    for one in found:
        texts = sorted(deciders[one.one].keys() & deciders[one.other].keys())
        pair = [[deciders[name][text] for text in texts] for name in (one.one, one.other)]
        assert one.num_texts == len(texts)
        assert one.share == pytest.approx(np.mean([a == b for a, b in zip(*pair, strict=True)]))
        assert one.kappa == pytest.approx(cohen_kappa_score(*pair))
        assert one.low is not None
        assert one.high is not None
        assert one.low < cohen_kappa_score(*pair) < one.high
    assert found[1].kappa is not None
    assert found[1].kappa > 0.5


def test_independent_decisions_have_no_kappa_in_95_percent_of_draws(tmp_path: Path) -> None:
    inside = 0
    for seed in range(60):
        traces = [written(tmp_path / f"{seed}-{at}", drawn(2 * seed + at), {}) for at in (0, 1)]
        (one,) = measure_agreement(traces, ["a", "b"])
        assert one.low is not None
        assert one.high is not None
        inside += one.low <= 0 <= one.high
    assert inside >= 52  # P(fewer | 95 %) = 0.3 %


def test_one_expert_for_all_texts_has_no_kappa(tmp_path: Path) -> None:
    same = dict.fromkeys(drawn(1), "law")
    (one,) = measure_agreement([written(tmp_path / "a", same, {}), written(tmp_path / "b", same, {})], ["a", "b"])
    assert (one.share, one.chance, one.kappa, one.low) == (1, 1, None, None)


def test_the_command_prints_pairs_and_refuses_what_cannot_be_compared(moe_ray: Command, tmp_path: Path) -> None:
    labels = drawn(1)
    written(tmp_path / "gate", drawn(2), labels)
    written(tmp_path / "router", drawn(3), labels)
    code, shown = moe_ray("specialise", "agreement", tmp_path / "gate", tmp_path / "router", "--json")
    assert code == 0, shown
    assert [DecisionAgreement.model_validate(one).num_texts for one in json.loads(shown)] == [60, 60, 60]
    code, shown = moe_ray("specialise", "agreement", tmp_path / "gate", tmp_path / "router")
    assert (code, "by chance" in shown) == (0, True)
    written(tmp_path / "other", {"x": "law"}, {})
    code, shown = moe_ray("specialise", "agreement", tmp_path / "gate", tmp_path / "other")
    assert (code, "has no text of" in shown) == (2, True), shown
    of_tokens = trace_of_counts(np.ones((3, 4)), ["", "", ""])
    write_trace(tmp_path / "tokens", of_tokens.manifest, [text_at(of_tokens, at) for at in range(3)])
    code, shown = moe_ray("specialise", "agreement", tmp_path / "gate", tmp_path / "tokens")
    assert (code, "decides for each token" in shown) == (2, True), shown
