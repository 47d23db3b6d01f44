"""The scripted engine: deterministic answers, real timings, injected faults."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moe_ray.config.schema import ModelConfig
from moe_ray.engines.base import BatchLimits
from moe_ray.engines.scripted import ScriptedEngine
from moe_ray.errors import ConfigError, ModelError
from tests.engines.asking import ROOMY, ask, completion, measure


def scripted(path: str = "fake", limits: BatchLimits = ROOMY, **settings: Any) -> ScriptedEngine:
    return ScriptedEngine(ModelConfig(path=path, engine="scripted", engine_settings=settings), limits)


def test_text_follows_from_id_seed_and_model_alone() -> None:
    def text(path: str, id: str, seed: int) -> str:
        return scripted(path).generate([ask("any", id=id, seed=seed, num=99)])[0].text

    assert text("a", "1", 0) == text("a", "1", 0)
    assert len({text("a", "1", 0), text("b", "1", 0), text("a", "2", 0), text("a", "1", 1)}) == 4


def test_replies_come_from_a_mapping_then_from_the_template() -> None:
    answers = scripted(replies={"1": "yes, because"}, text="I am {id}").generate([ask("q", id="1"), ask("q", id="2")])
    assert [one.text for one in answers] == ["yes, because", "I am 2"]
    assert [len(one.token_ids) for one in answers] == [2, 3]


def test_replies_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text(json.dumps({"id": "1", "text": "no"}) + "\n\n")
    assert scripted(replies=str(path)).generate([ask("q", id="1")])[0].text == "no"


@pytest.mark.parametrize("line", ["{", "[]", '{"id": 1, "text": "x"}', '{"id": "1"}'])
def test_a_malformed_reply_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"id": "0", "text": "x"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        scripted(replies=str(path))
    assert caught.value.where == f"{path}:2"


def test_a_missing_file_of_replies_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        scripted(replies=str(tmp_path / "none.jsonl"))


def test_length_and_stop_strings_end_a_reply() -> None:
    made = scripted(text="one two three four")
    long, stopped = made.generate([ask("q", num=2), ask(completion("q", stop=(" three",)))])
    assert (long.text, long.finish_reason) == ("one two", "length")
    assert (stopped.text, stopped.finish_reason) == ("one two", "stop")


def test_times_are_really_spent() -> None:
    made = scripted(text="a b c d", seconds_per_token=0.02, seconds_per_batch=0.03)
    start_s = time.perf_counter()
    long, short = made.generate([ask("q", id="1"), ask("q", id="2", num=1)])
    assert time.perf_counter() - start_s >= 0.11
    assert long.timing.total_s >= 0.11
    assert short.timing.total_s < long.timing.total_s
    assert 0.05 <= (short.timing.time_to_first_token_s or 0) <= short.timing.total_s


def test_batches_have_at_most_the_rows_allowed() -> None:
    made = scripted(limits=BatchLimits(max_rows=2, cache_memory_bytes=1), text="x")
    assert [one.timing.batch_rows for one in made.generate([ask("q", id=str(n)) for n in range(5)])] == [2, 2, 2, 2, 1]


def test_the_preferred_choice_has_the_best_likelihood() -> None:
    prompt = completion("q", choices=(" yes", " no", " maybe"), reference=" a long answer")
    made = scripted(prefer={"1": "no", "3": "perhaps"})
    first, second, third = made.loglikelihoods([measure(prompt, "1"), measure(prompt, "2"), measure(prompt, "3")])
    values = [value for value in first.loglikelihoods if value is not None]
    assert len(values) == 4
    assert max(values) == values[1]
    assert first.num_tokens == (1, 1, 1, 3)
    assert len(second.loglikelihoods) == 4
    assert all(value is not None and value < 0 for value in second.loglikelihoods)
    assert "perhaps" in (third.error or "")


def test_likelihoods_follow_from_id_model_and_text() -> None:
    prompt = completion("q", choices=(" yes", " no"))
    one, other = (scripted().loglikelihoods([measure(prompt, "1")])[0].loglikelihoods for _ in range(2))
    assert one == other
    assert one != scripted("another").loglikelihoods([measure(prompt, "1")])[0].loglikelihoods


def test_errors_are_injected_into_their_rows_only() -> None:
    made = scripted(error_on=["bad"])
    bad, good = made.generate([ask("q", id="bad"), ask("q", id="good")])
    assert (bad.finish_reason, bad.text, bad.error) == ("error", "", "scripted error on bad")
    assert good.error is None
    assert made.loglikelihoods([measure(completion("q", choices=("a",)), "bad")])[0].error


def test_a_failure_to_load_has_its_message() -> None:
    with pytest.raises(ModelError, match="no more room"):
        scripted(fail_to_load="no more room")


def test_memory_is_what_it_pretends() -> None:
    assert scripted(memory_bytes=123).memory().weights_bytes == 123


def crash_program(fault_dir: Path) -> str:
    return (
        "from tests.engines.test_scripted import scripted; from tests.engines.asking import ask;"
        f"made = scripted(text='x', crash_on=['x'], crash_times=2, fault_dir={str(fault_dir)!r});"
        "print(made.generate([ask('q', id='ok')])[0].finish_reason, flush=True); made.generate([ask('q', id='x')])"
    )


def test_a_crash_ends_the_process_so_often_and_then_no_more(tmp_path: Path) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", crash_program(tmp_path / "faults")], capture_output=True, check=False)
        for _ in range(3)
    ]
    assert [run.returncode for run in runs] == [1, 1, 0]
    assert all(run.stdout == b"stop\n" for run in runs)
    assert all(run.stderr == b"" for run in runs)


def test_a_hang_never_returns(tmp_path: Path) -> None:
    program = (
        "from tests.engines.test_scripted import scripted; from tests.engines.asking import ask;"
        "made = scripted(hang_on=['x']); print('ready', flush=True); made.generate([ask('q', id='x')])"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
    finally:
        process.kill()
        process.communicate()


def test_a_hang_can_be_counted(tmp_path: Path) -> None:
    made = scripted(hang_on=["x"], hang_times=1, fault_dir=str(tmp_path))
    assert made._is_due("hang", "x", 1)
    assert made.generate([ask("q", id="x")])[0].error is None
