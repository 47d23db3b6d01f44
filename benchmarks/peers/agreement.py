"""Both sides answer the same examples with the same models; then every answer and every score is compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import ours, theirs
from benchmarks.peers.comparing import LikelihoodAgreement, TextAgreement, compare_likelihoods, compare_texts
from benchmarks.peers.environment import Setting
from benchmarks.peers.explaining import Explainer, Explanation
from benchmarks.peers.models import Materials
from benchmarks.peers.theirs import CHOICES, GENERATE, REFERENCE, Asked, TheirRun
from moe_ray.comparison.records import Summary
from moe_ray.config.load import LoadedExperiment
from moe_ray.domains.example import Example
from moe_ray.runs.work import prepare
from moe_ray.store.answers import Answer
from moe_ray.store.run_directory import RunDirectory

SCORE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePair:
    """One score of one domain, as each side defines and computes it."""

    domain: str
    our_name: str
    their_name: str
    our_value: float
    their_value: float

    @property
    def holds(self) -> bool:
        return abs(self.our_value - self.their_value) <= SCORE_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainAgreement:
    """All that was compared of one domain."""

    domain: str
    model: str
    texts: TextAgreement
    explanations: tuple[Explanation, ...]
    likelihoods: Mapping[str, LikelihoodAgreement]
    scores: tuple[ScorePair, ...]

    @property
    def holds(self) -> bool:
        parts = [
            self.texts.holds,
            *(one.holds for one in self.likelihoods.values()),
            *(one.holds for one in self.scores),
        ]
        return all(parts) and all(one.is_rounding for one in self.explanations)


def asked_of(experiment: LoadedExperiment) -> dict[str, list[Asked]]:
    """Return what each model is asked: its domains, with the examples and prompts of `experiment`."""
    config = experiment.config
    domains = prepare(experiment).domains
    asked: dict[str, list[Asked]] = {name: [] for name in config.models}
    for name in config.domains:
        (model,) = config.models_of(name)
        examples = domains[name].examples
        style = config.models[model].prompt_style
        measured = (*([CHOICES] if examples[0].prompts[style].choices else []), REFERENCE)
        asked[model].append(
            Asked(
                domain=name,
                style=style,
                examples=examples,
                max_new_tokens=domain_tokens(experiment, name),
                parts=(GENERATE, *(measured if config.likelihood else ())),
            )
        )
    return asked


def domain_tokens(experiment: LoadedExperiment, domain: str) -> int:
    """Return how many tokens an answer of `domain` may have."""
    config = experiment.config
    return config.domains[domain].max_new_tokens or config.decoding.max_new_tokens


def compare_all(setting: Setting, materials: Materials) -> Iterator[DomainAgreement]:
    """Let both sides answer, moe_ray all models in one run and lm_eval each in its own, and compare by domain."""
    file = ours.agreement_experiment(setting, materials)
    run = ours.evaluate(setting, file, setting.folder / "our-results", setting.max_examples).run
    for model, domains in asked_of(ours.loaded(file, setting.max_examples)).items():
        tasks_folder, out = (setting.folder / name / model for name in ("tasks", "their-results"))
        tasks = theirs.write_tasks(tasks_folder, domains)
        checkpoint = materials.checkpoints[model]
        is_chat = domains[0].style == "chat"
        their_run = theirs.evaluate(setting, checkpoint, tasks_folder, tasks, out, is_chat=is_chat)
        for one in domains:
            yield compare_domain(model, checkpoint, one, run, their_run)


def compare_domain(
    model: str, checkpoint: Path, asked: Asked, our_run: RunDirectory, their_run: TheirRun
) -> DomainAgreement:
    """Compare one domain's texts, log-likelihoods and scores; explain the texts that differ."""
    answers = [answer for answer in our_run.answers() if answer.domain == asked.domain]
    texts = {answer.example_id: answer for answer in answers if answer.kind == "generate"}
    measured = {answer.example_id: answer for answer in answers if answer.kind == "likelihood"}
    agreement = compare_texts(texts, their_run.spoken(asked.task(GENERATE)))
    found = {part: _likelihoods(asked, part, measured, their_run) for part in asked.parts if part != GENERATE}
    return DomainAgreement(
        domain=asked.domain,
        model=model,
        texts=agreement,
        explanations=tuple(_explained(checkpoint, agreement, asked, texts, their_run)),
        likelihoods=found,
        scores=tuple(_score_pairs(model, asked, our_run, their_run)),
    )


def _likelihoods(asked: Asked, part: str, measured: Mapping[str, Answer], their_run: TheirRun) -> LikelihoodAgreement:
    num_choices = len(asked.examples[0].prompts[asked.style].choices)
    chosen = slice(0, num_choices) if part == CHOICES else slice(num_choices, None)
    mine = {key: (answer.loglikelihoods or [])[chosen] for key, answer in measured.items()}
    return compare_likelihoods(mine, their_run.loglikelihoods(asked.task(part)))


def _explained(
    checkpoint: Path, agreement: TextAgreement, asked: Asked, texts: Mapping[str, Answer], their_run: TheirRun
) -> Iterator[Explanation]:
    if not agreement.differences:
        return
    explainer = Explainer(checkpoint)
    samples = their_run.samples(asked.task(GENERATE))
    for one in agreement.differences:
        prompt = samples[one.example_id]["arguments"]["gen_args_0"]["arg_0"]
        yield explainer.explain(one, prompt, texts[one.example_id])


def _score_pairs(model: str, asked: Asked, our_run: RunDirectory, their_run: TheirRun) -> Iterator[ScorePair]:
    """Yield the scores that both sides define alike: accuracy by likelihood, its macro-F1, and pass@1."""
    summary = Summary.model_validate_json(our_run.summary_path.read_text(encoding="utf-8"))

    def pair(our_name: str, their_name: str, their_value: float) -> ScorePair:
        mine = summary.value(model, asked.domain, our_name)
        assert mine is not None
        assert mine.value is not None
        return ScorePair(
            domain=asked.domain,
            our_name=our_name,
            their_name=their_name,
            our_value=mine.value,
            their_value=their_value,
        )

    if CHOICES in asked.parts:
        task = asked.task(CHOICES)
        yield pair("accuracy_loglik", "acc", their_run.score(task, "acc"))
        macro_f1 = _macro_f1(asked.examples, their_run.loglikelihoods(task))
        yield pair("macro_f1_loglik", "scikit-learn's f1_score", macro_f1)
    if asked.examples[0].grading.get("tests"):
        yield pair("pass@1", "pass_at_1", their_run.score(asked.task(GENERATE), "pass_at_1"))


def _macro_f1(examples: Sequence[Example], loglikelihoods: Mapping[str, Sequence[float]]) -> float:
    """Return scikit-learn's macro-F1 of the peer's likeliest choices, over the labels that are gold somewhere."""
    from sklearn.metrics import f1_score

    golds, chosen = [], []
    for example in examples:
        values, choices = loglikelihoods[example.id], example.grading["choices"]
        assert isinstance(choices, list)
        golds.append(example.grading["label"])
        chosen.append(choices[values.index(max(values))])
    return float(f1_score(golds, chosen, labels=sorted(set(map(str, golds))), average="macro", zero_division=0))
