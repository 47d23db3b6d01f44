"""The prompts that are shown are the prompts that models get: compared with what a real model is given."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

from moe_ray.cli.terminal import EXIT_USAGE
from moe_ray.config.load import load_experiment
from moe_ray.errors import ConfigError, ModelError
from moe_ray.runs.preview import ShownPrompt, prompts_of
from tests.engines.asking import ask, engine
from tests.support.commands import Command
from tests.support.tiny_models import CONTEXT_LENGTH, make_tiny_checkpoint

Settings = dict[str, Any]
QUESTIONS = ("is the drug a question", "of the law", "the sum of a list")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def experiment(tmp_path: Path, llama: Path) -> Callable[..., Path]:
    """Write an experiment of one decision that two styles of one tiny model answer."""

    def write(questions: tuple[str, ...] = QUESTIONS, **changes: Any) -> Path:
        records = [{"id": f"q{at}", "question": text, "label": "yes"} for at, text in enumerate(questions)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        domain = {
            "task": "decision",
            "data": {"source": "./rows.jsonl"},
            "choices": ["yes", "no"],
            "prompt": {"system": "answer with yes or no", "stop": ["\n\n"]},
            "max_new_tokens": 5,
            "expert": "base",
        }
        content = {
            "name": "shown",
            "models": {
                "chat": {"path": str(llama)},
                "base": {"path": str(llama), "prompt_style": "completion"},
            },
            "baseline": "chat",
            "domains": {"parity": {**domain, **changes.pop("domain", {})}},
            **changes,
        }
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return write


def shown(file: Path, **choice: Any) -> list[ShownPrompt]:
    return list(prompts_of(load_experiment(file), **choice))


def given_to_the_model(directory: Path, prompt: Any, **fields: Any) -> list[int]:
    """The token ids that the weights themselves are given."""
    loaded = engine(directory, **fields)
    seen: list[list[int]] = []

    def record(module: object, args: object, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["input_ids"][0].tolist())

    loaded._loaded.model.register_forward_pre_hook(record, with_kwargs=True)
    loaded.generate([ask(prompt, num=1)])
    return seen[0]


@pytest.mark.parametrize("name", ["chat", "base"])
def test_the_tokens_shown_are_those_that_the_model_is_given(
    name: str, experiment: Callable[..., Path], llama: Path
) -> None:
    from moe_ray.domains.loading import load_domain

    loaded = load_experiment(experiment())
    model = loaded.config.models[name]
    examples = load_domain("parity", loaded.config.domains["parity"], loaded.base_dir).examples
    found = shown(loaded.path, model=name, number=3)
    assert [one.example for one in found] == [example.id for example in examples]
    for one, example in zip(found, examples, strict=True):
        expected = given_to_the_model(llama, example.prompts[model.prompt_style], prompt_style=model.prompt_style)
        assert list(one.token_ids or ()) == expected
        assert one.num_tokens == len(expected)
        assert one.context_length == CONTEXT_LENGTH


def test_the_text_is_the_templates_own_and_continuations_are_counted(
    experiment: Callable[..., Path], llama: Path
) -> None:
    (found,) = shown(experiment(), model="chat")
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    turns = [{"role": message.role, "content": message.content} for message in found.messages]
    assert found.text == tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert found.stop == ("\n\n",)
    assert [one.fits for one in found.continuations] == [True] * len(found.continuations)
    # The template ends with a line break, which is measured with the continuation.
    spelled = tokenizer(f"\n{found.continuations[0].text}", add_special_tokens=False)["input_ids"]
    assert found.continuations[0].num_tokens == len(spelled)


def test_a_prompt_that_does_not_fit_is_shown_with_its_error_or_its_cut(
    experiment: Callable[..., Path], llama: Path
) -> None:
    long = ("the law " * CONTEXT_LENGTH,)
    (refused,) = shown(experiment(long), model="chat")
    assert refused.error is not None
    assert "context holds" in refused.error
    assert refused.token_ids is None
    assert refused.text is not None
    assert (refused.num_tokens or 0) > CONTEXT_LENGTH
    models = {
        "chat": {"path": str(llama), "overflow": "truncate_left"},
        "base": {"path": str(llama), "prompt_style": "completion"},
    }
    (cut,) = shown(experiment(long, models=models), model="chat")
    assert cut.error is None
    assert len(cut.token_ids or ()) == CONTEXT_LENGTH - 5
    assert cut.num_truncated == (cut.num_tokens or 0) - (CONTEXT_LENGTH - 5)


def test_no_weights_and_no_ray_are_loaded(experiment: Callable[..., Path], llama: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    file = experiment(models={"chat": {"path": str(bare)}, "base": {"path": str(bare), "prompt_style": "completion"}})
    code = (
        "import sys; from pathlib import Path; from moe_ray.config.load import load_experiment\n"
        "from moe_ray.runs.preview import prompts_of\n"
        f"print(len(list(prompts_of(load_experiment(Path({str(file)!r})), number=2))), 'ray' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["4", "False"]


def test_a_tokenizer_that_cannot_be_loaded_is_told_at_its_key(
    experiment: Callable[..., Path], tmp_path: Path, llama: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama, bare, ignore=shutil.ignore_patterns("tokenizer*", "chat_template*", "special*"))
    file = experiment(models={"chat": {"path": str(bare)}, "base": {"path": str(llama), "prompt_style": "completion"}})
    with pytest.raises(ModelError, match="no usable tokenizer") as caught:
        shown(file)
    assert "models.chat.path" in str(caught.value.where)
    assert "experiment.yaml:" in str(caught.value.where)


@pytest.mark.parametrize("choice", [{"domain": "parties"}, {"model": "chats"}])
def test_a_name_that_is_none_is_refused(choice: Settings, experiment: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        shown(experiment(), **choice)
    assert "did you mean" in str(caught.value)


def test_the_command_prints_prompts_for_people_and_for_programs(
    moe_ray: Command, experiment: Callable[..., Path]
) -> None:
    file = experiment(("forged\nparity / chat / q9: 1 token\x1b[2J",))
    code, printed = moe_ray("prompts", file)
    assert code == 0, printed
    headings = [line for line in printed.splitlines() if line and not line.startswith(" ")]
    assert [line.split(":")[0] for line in headings] == ["parity / chat / q0", "parity / base / q0"]
    assert "\x1b" not in printed
    assert 'stop strings: "\\n\\n"' in printed
    code, printed = moe_ray("prompts", file, "--json", "--model", "base", "-n", 1)
    assert code == 0
    (record,) = map(json.loads, printed.splitlines())
    assert record["model"] == "base"
    assert record["num_tokens"] == len(record["token_ids"])
    assert "\x1b[2J" in record["text"]


def test_the_messages_of_another_engine_are_shown_without_tokens(
    moe_ray: Command, experiment: Callable[..., Path]
) -> None:
    scripted = {"path": "scripted/x", "engine": "scripted", "engine_settings": {"text": "yes"}}
    code, printed = moe_ray("prompts", experiment(models={"chat": scripted, "base": scripted}))
    assert code == 0, printed
    assert "number of tokens unknown" in printed
    assert "[system] answer with yes or no" in printed


def test_a_template_that_no_model_is_asked_with_is_refused(
    moe_ray: Command, experiment: Callable[..., Path], llama: Path
) -> None:
    """A completion model used to ignore it without a word."""
    base = {"path": str(llama), "prompt_style": "completion"}
    template = {"prompt": {"template": "Q: {question}"}}
    file = experiment(models={"base": base}, baseline="base", domain=template)
    code, printed = moe_ray("plan", file)
    assert code == EXIT_USAGE
    assert "domains.parity.prompt.template" in printed
    assert "completion_template" in printed
    both = {"prompt": {**template["prompt"], "completion_template": "Q: {question}\nA:"}}
    assert moe_ray("plan", experiment(models={"base": base}, baseline="base", domain=both))[0] == 0


def test_a_template_that_some_models_are_not_asked_with_is_noted(experiment: Callable[..., Path]) -> None:
    from moe_ray.runs.work import prepare

    loaded = load_experiment(experiment(domain={"prompt": {"template": "Q: {question}"}}))
    notes = prepare(loaded).domains["parity"].notes
    assert any("base get the task's own completion prompt" in note for note in notes)
