"""Train one router on the texts of one case, and note what it does with texts that it has not seen."""

import time
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np

from benchmarks.router_accuracy.agreement import shares_by
from benchmarks.router_accuracy.cases import Case, CaseTexts
from benchmarks.router_accuracy.records import RunRecord, Verdict
from moe_ray.config.schema import OTHER, RouterConfig
from moe_ray.progress import TrainingProgress
from moe_ray.routing.router import Router
from moe_ray.routing.training import fit_router
from moe_ray.texts.labelled import LabelledText

Say = Callable[[str], None]


def measure(case: Case, case_texts: CaseTexts, router_name: str, config: RouterConfig, say: Say) -> RunRecord:
    """Train and test on the CPU; `say` gets a line at the end of every epoch."""

    def report(progress: TrainingProgress) -> None:
        if progress.macro_f1 is not None:
            say(f"  epoch {progress.epoch:.0f}: validation macro-F1 {progress.macro_f1:.4f}")

    extra = tuple(chain.from_iterable(case_texts.extra.values()))
    started = time.perf_counter()
    router, results = fit_router(config, case_texts.texts, device="cpu", report=report)
    verdicts = judged(router, case_texts.texts.test)
    return RunRecord(
        part=case.part,
        case=case.name,
        router=router_name,
        settings=config.model_dump(mode="json", exclude={"base_model", "tokenizer"}),
        results=results,
        by_source=shares_by(verdicts, lambda verdict: verdict.source),
        extra=shares_by(judged(router, extra), lambda verdict: verdict.label),
        verdicts=verdicts if case.keep_verdicts else [],
        wall_s=time.perf_counter() - started,
    )


def judged(router: Router, texts: Sequence[LabelledText]) -> list[Verdict]:
    """Return the router's verdict on each text, before its threshold."""
    probabilities = router.predict_proba([text.text for text in texts])
    names = router.domains
    if OTHER in router.labels:
        probabilities = np.column_stack([probabilities, 1 - probabilities.sum(axis=1)])
        names = (*names, OTHER)
    return [
        Verdict(
            id=text.id,
            source=text.source,
            label=text.label,
            predicted=names[int(row.argmax())],
            confidence=round(float(row.max()), 4),
            num_words=len(text.text.split()),
        )
        for text, row in zip(texts, probabilities, strict=True)
    ]
