"""`moe-ray specialise trace`, `merge` and `report`, on real checkpoints and on bad input."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from moe_ray.architectures.gated_mixture import GatedMixtureConfig, GatedMixtureForCausalLM
from moe_ray.cli.specialise import TraceOptions, trace_mixture
from moe_ray.specialisation.records import read_manifest, read_trace
from tests.specialisation.families import make
from tests.support.commands import Command
from tests.support.synthetic_routes import route
from tests.support.synthetic_run import synthetic_run
from tests.support.tiny_models import make_tiny_checkpoint, make_tokenizer

WORDS = {"law": ["court", "law", "contract", "is", "the"], "bio": ["drug", "cell", "question", "answer", "of"]}
NUM_TEXTS = 24


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers.utils.logging.disable_progress_bar()
    folder, tokenizer = tmp_path_factory.mktemp("mixtral"), make_tokenizer()
    make("mixtral", vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("texts") / "texts.jsonl", random.Random(1)
    lines = [
        json.dumps({"text": " ".join(rng.choice(words) for _ in range(rng.randint(4, 12))), "label": label})
        for label, words in WORDS.items()
        for _ in range(NUM_TEXTS // 2)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trace(mixture: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One trace of all texts with everything."""
    out = tmp_path_factory.mktemp("trace") / "trace"
    options = TraceOptions(
        label=None, chat=False, max_tokens=512, skip=0, max_texts=None, shard=None, batch_size=1, dtype="auto",
        tokens=True, norms=True, similarity=True,
    )  # fmt: skip
    trace_mixture(str(mixture), texts, out, options)
    return out


def copied(trace: Path, to: Path) -> Iterator[Path]:
    to.mkdir()
    for path in trace.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
        yield to / path.name


def test_a_trace_holds_each_text_with_its_class_and_no_special_token(trace: Path, texts: Path) -> None:
    read, tokenizer = read_trace(trace, with_tokens=True), make_tokenizer()
    wanted = {json.loads(line)["text"] for line in texts.read_text().splitlines()}
    decoded = {tokenizer.decode(text.token_ids) for text in read.tokens}
    assert decoded == wanted
    assert {"".join(read.pieces[token] for token in text.token_ids).strip() for text in read.tokens} == wanted
    assert (read.num_masked == 1).all()  # the begin token
    for label, ids in zip(read.labels, read.tokens, strict=True):
        assert set(tokenizer.decode(ids.token_ids).split()) <= set(WORDS[label])
    for at, layer in enumerate(read.layers):
        counted = [np.bincount(text.experts[:, at].ravel(), minlength=6) for text in read.tokens]
        assert (layer.selected == np.stack(counted)).all()
        assert layer.mass.sum() == pytest.approx(read.num_tokens.sum())


def test_the_report_shows_tables_sentences_and_all_values_as_json(moe_ray: Command, trace: Path) -> None:
    code, shown = moe_ray("specialise", "report", trace)
    assert code == 0, shown
    assert "Layers  mixtral, 24 texts" in shown
    assert "of 12 experts are used by some class" in shown
    code, shown = moe_ray("specialise", "report", trace, "--json", "--weight", "text")
    report = json.loads(shown)
    assert code == 0
    assert report["classes"] == {"bio": 12, "law": 12}
    measures = {value["measure"] for value in report["values"]}
    assert {"lift", "saliency", "output_cka", "co_activation", "conditional_information", "mass_share"} <= measures
    assert len(report["sentences"]) == 12


def test_the_report_needs_no_torch(trace: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from moe_ray.cli.specialise import report_traces; "
        f"report_traces([Path({str(trace)!r})], weight='token', top=3, as_json=False); "
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_merged_shards_are_the_same_bytes_as_one_trace(
    moe_ray: Command, mixture: Path, texts: Path, trace: Path, tmp_path: Path
) -> None:
    shards = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    for number, shard in enumerate(shards, start=1):
        code, shown = moe_ray(
            "specialise", "trace", mixture, "--texts", texts, "--out", shard, "--shard", f"{number}/3",
            "--tokens", "--norms",
        )  # fmt: skip
        assert code == 0, shown
    sizes = [read_manifest(shard).num_texts for shard in shards]
    assert sum(sizes) == NUM_TEXTS
    assert min(sizes) > 0
    code, shown = moe_ray("specialise", "merge", *shards[::-1], "--out", tmp_path / "merged")
    assert code == 0, shown
    for name in ("texts.parquet", "layers.parquet", "tokens.parquet"):
        assert (tmp_path / "merged" / name).read_bytes() == (trace / name).read_bytes()
    whole, parts = (moe_ray("specialise", "report", *paths, "--json") for paths in ([tmp_path / "merged"], shards))
    assert whole == parts
    code, shown = moe_ray("specialise", "merge", shards[0], shards[0], "--out", tmp_path / "twice")
    assert code == 2
    assert "is in two of the traces" in shown


def test_a_template_is_read_and_its_tokens_do_not_count(
    moe_ray: Command, mixture: Path, texts: Path, tmp_path: Path
) -> None:
    code, shown = moe_ray(
        "specialise", "trace", mixture, "--texts", texts, "--out", tmp_path / "chat", "--chat", "--tokens"
    )
    assert code == 0, shown
    tokenizer, read = make_tokenizer(), read_trace(tmp_path / "chat", with_tokens=True)
    for text in read.tokens:
        assert "[" not in tokenizer.decode(text.token_ids)
    assert (read.num_masked > 5).all()
    plain = {json.loads(line)["text"] for line in texts.read_text().splitlines()}
    assert {tokenizer.decode(text.token_ids).strip() for text in read.tokens} == plain


def test_the_first_tokens_can_be_left_out(
    moe_ray: Command, mixture: Path, texts: Path, trace: Path, tmp_path: Path
) -> None:
    code, shown = moe_ray(
        "specialise", "trace", mixture, "--texts", texts, "--out", tmp_path / "t", "--skip", 2, "--tokens"
    )
    assert code == 0, shown
    whole, skipped = read_trace(trace, with_tokens=True), read_trace(tmp_path / "t", with_tokens=True)
    for before, after in zip(whole.tokens, skipped.tokens, strict=True):
        assert (before.experts[2:] == after.experts).all()
        assert (before.token_ids[2:] == after.token_ids).all()


def test_traces_of_other_settings_do_not_merge(
    moe_ray: Command, mixture: Path, texts: Path, trace: Path, tmp_path: Path
) -> None:
    code, _ = moe_ray("specialise", "trace", mixture, "--texts", texts, "--out", tmp_path / "t", "--max-tokens", 4)
    assert code == 0
    code, shown = moe_ray("specialise", "report", trace, tmp_path / "t")
    assert code == 2
    assert "differs from" in shown
    assert "settings" in shown


@pytest.mark.parametrize("name", ["layers.parquet", "tokens.parquet", "trace.json"])
def test_a_truncated_trace_is_one_message(moe_ray: Command, trace: Path, tmp_path: Path, name: str) -> None:
    for path in copied(trace, tmp_path / "t"):
        if path.name == name:
            path.write_bytes(path.read_bytes()[:-10])
    code, shown = moe_ray("specialise", "report", tmp_path / "t")
    assert code == 2
    assert "Traceback" not in shown
    assert name in shown.replace("\n", "")
    assert "trace the texts again" in shown.replace("\n", " ")


def test_a_folder_that_is_no_trace_is_refused_and_never_replaced(
    moe_ray: Command, mixture: Path, texts: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("my only copy")
    code, shown = moe_ray("specialise", "report", tmp_path)
    assert code == 2
    assert "is not a trace" in shown.replace("\n", " ")
    code, shown = moe_ray("specialise", "trace", mixture, "--texts", texts, "--out", tmp_path)
    assert code == 2
    assert (tmp_path / "thesis.txt").read_text() == "my only copy"


def test_a_dense_model_is_refused_by_one_message(moe_ray: Command, texts: Path, tmp_path: Path) -> None:
    dense = make_tiny_checkpoint(tmp_path / "dense", "llama")
    code, shown = moe_ray("specialise", "trace", dense, "--texts", texts, "--out", tmp_path / "t")
    assert code == 2
    assert "no experts found in LlamaForCausalLM" in shown
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a", "label": "x"}\n{"text": "b"}\n', "1 of 2 records have no 'label'"),
        ('{"words": "a"}\n', "some records have no 'text'"),
        ('{"text": " "}\n', "holds no texts"),
        ('{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n', "two texts have the id 1"),
    ],
)
def test_texts_that_cannot_be_used_are_refused_before_a_model_is_loaded(
    moe_ray: Command, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "texts.jsonl").write_text(content)
    code, shown = moe_ray("specialise", "trace", "./none", "--texts", tmp_path / "texts.jsonl", "--out", tmp_path / "t")
    assert code == 2
    assert message in shown.replace("\n", " ")


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b"])
def test_a_shard_that_is_none_is_refused(moe_ray: Command, texts: Path, tmp_path: Path, shard: str) -> None:
    code, shown = moe_ray("specialise", "trace", "./none", "--texts", texts, "--out", tmp_path / "t", "--shard", shard)
    assert code == 2
    assert "is not a shard" in shown


def gated(folder: Path) -> Path:
    """A merged mixture of three models behind a gate."""
    tokenizer: Any = make_tokenizer()
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    settings = {"num_experts": 3, "gate_hidden_sizes": [8], "gate_dropout": 0.1, "expert_names": ["a", "b", "c"]}
    GatedMixtureForCausalLM(GatedMixtureConfig(text_config=config, **settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_gate_of_a_merged_mixture_is_traced_in_the_same_format(
    moe_ray: Command, texts: Path, tmp_path: Path
) -> None:
    mixture = gated(tmp_path / "gated")
    code, shown = moe_ray("specialise", "trace", mixture, "--texts", texts, "--out", tmp_path / "t")
    assert code == 0, shown
    read = read_trace(tmp_path / "t")
    assert read.manifest.unit == "text"
    assert read.manifest.expert_names == ["a", "b", "c"]
    (layer,) = read.layers
    assert (layer.selected.sum(axis=1) == 1).all()
    assert layer.mass.sum(axis=1) == pytest.approx(np.ones(NUM_TEXTS), abs=1e-6)
    assert (layer.selected.argmax(axis=1) == layer.mass.argmax(axis=1)).all()
    code, shown = moe_ray("specialise", "report", tmp_path / "t")
    assert code == 0, shown
    assert pq.read_table(tmp_path / "t" / "texts.parquet").num_rows == NUM_TEXTS


def test_the_query_router_of_a_run_is_a_trace_too(moe_ray: Command, tmp_path: Path) -> None:
    run, _ = synthetic_run(tmp_path / "run", num_models=4, num_answers=240)
    routes = route(run, with_test=False)
    code, shown = moe_ray("specialise", "trace-router", tmp_path / "run", "--out", tmp_path / "t")
    assert code == 0, shown
    read = read_trace(tmp_path / "t")
    assert read.manifest.expert_names == [*routes.domains, "out-of-domain"]
    assert len(read.text_ids) == len(routes.example_ids)
    rows = {
        f"{domain}/{name}": at
        for at, (domain, name) in enumerate(zip(routes.example_domains, routes.example_ids, strict=True))
    }
    for text_id, mass in zip(read.text_ids, read.layers[0].mass, strict=True):
        assert mass[:-1] == pytest.approx(routes.probabilities[rows[text_id]], abs=1e-12)
    code, shown = moe_ray("specialise", "report", tmp_path / "t", "--top", "1")
    assert code == 0, shown
    assert "uses it" in shown
    code, shown = moe_ray("specialise", "trace-router", tmp_path, "--out", tmp_path / "u")
    assert code == 2


def test_the_domains_of_an_experiment_are_the_classes(moe_ray: Command, mixture: Path, tmp_path: Path) -> None:
    for label, words in WORDS.items():
        rows = [{"question": " ".join(words[at:] + words[:at]), "answer": "yes"} for at in range(len(words))]
        (tmp_path / f"{label}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = "columns: {question: question, reference: answer}"
    domains = "".join(
        f"  {label}: {{task: free_text, data: {{source: ./{label}.jsonl}}, {columns}}}\n" for label in WORDS
    )
    (tmp_path / "experiment.yaml").write_text(
        f"name: x\nmodels:\n  base: {{path: {mixture}}}\nbaseline: base\ndomains:\n{domains}"
    )
    code, shown = moe_ray(
        "specialise", "trace", mixture, "--texts", tmp_path / "experiment.yaml", "--out", tmp_path / "t"
    )
    assert code == 0, shown
    read = read_trace(tmp_path / "t")
    assert sorted(set(read.labels)) == ["bio", "law"]
    assert all(text_id.startswith(f"{label}/") for text_id, label in zip(read.text_ids, read.labels, strict=True))
