"""What holds of every kind of router, whichever classifier it stands on."""

from pathlib import Path

import numpy as np
import pytest

from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.routing.classifier import CLASSIFIERS
from moe_ray.routing.router import BLANK_SCORE, Router
from moe_ray.routing.training import fit_router
from tests.routing.queries import DOMAINS, nothing_reported, queries, router_texts
from tests.support.tiny_models import make_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"model_type": "distilbert", "dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.1}
ODD = ["", "\0", "\ud800", "?", "lease " * 20_000, "\N{PILE OF POO}" * 100_000, "\N{HANGUL SYLLABLE HAN}"]


@pytest.fixture(scope="module", params=sorted(CLASSIFIERS))
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Router:
    """A router of each kind that learned the domains and `other`, and tells out-of-domain queries by its features."""
    section = {"kind": request.param, "out_of_domain": {"score": "mahalanobis"}}
    training = {"learning_rate": 3e-3, "epochs": 4, "max_tokens": 64}
    if request.param == "transformer":
        section |= {"architecture": TINY, "training": training}
    if request.param == "embedding":
        model = make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")
        section |= {"base_model": str(model), "training": training}
    texts = router_texts((*DOMAINS, OTHER), num_each=60)
    return fit_router(RouterConfig.model_validate(section), texts, device="cpu", report=nothing_reported)[0]


def test_a_router_of_any_kind_comes_back_from_its_files_with_the_same_verdicts(router: Router, tmp_path: Path) -> None:
    asked = [text.text for text in queries(DOMAINS, 10, first=40_000)] + ODD
    saved = router.save(tmp_path / "router")
    loaded = Router.load(tmp_path / "router")
    assert loaded.record == saved.record
    assert loaded.test_results == router.test_results
    for found, expected in zip(loaded.judge(asked)[:2], router.judge(asked)[:2], strict=True):
        assert found == pytest.approx(expected, abs=1e-9)


def test_a_router_of_any_kind_routes_odd_texts(router: Router) -> None:
    judgement = router.judge(ODD)
    assert np.isfinite(judgement.probabilities).all()
    assert (judgement.probabilities.sum(axis=1) <= 1 + 1e-9).all()
    assert np.isfinite(judgement.scores).all()
    assert (judgement.scores[:2] == BLANK_SCORE).all()
    assert router.judge([]).probabilities.shape == (0, 3)


def test_a_router_of_any_kind_learns_more_than_chance(router: Router) -> None:
    assert router.test_results is not None
    assert router.test_results.accuracy_low > 0.25
    assert router.test_results.after_scaling.nll < np.log(4)
