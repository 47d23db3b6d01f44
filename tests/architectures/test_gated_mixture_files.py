"""A gated mixture, saved and read back: here, and where transformers is all there is."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from moe_ray.architectures import auto_map, register
from moe_ray.architectures.gated_mixture import GatedMixtureConfig
from tests.architectures.gated import FAMILIES, make_sources, merge, padded, prompts
from tests.support.tiny_models import make_tokenizer

ELSEWHERE = """
import sys, torch
from transformers import AutoModelForCausalLM
for directory in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)
    given = torch.load(directory + "/given.pt")
    ids, mask = given["ids"], given["mask"]
    assert torch.equal(model(ids, attention_mask=mask).logits, given["logits"])
    texts = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, mixture_mode="select_one")
    assert torch.equal(texts, given["texts"])
    model.save_pretrained(directory + "/again")
    again = AutoModelForCausalLM.from_pretrained(directory + "/again", trust_remote_code=True)
    assert torch.equal(again(ids, attention_mask=mask).logits, given["logits"])
    print(type(model).__name__, type(model.language_model).__name__)
    assert torch.equal(model.get_gating_probs(given["text"]), given["probs"])  # does not ask to trust remote code
assert "moe_ray" not in sys.modules
"""


def reload(directory: Path, **how: Any) -> Any:
    register()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **how)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixture_that_was_saved_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    mixture = merge(make_sources(family), expert_names=["law", "code", "cells"], mixture_mode="select_one")
    mixture.gating_network.standardise(torch.randn(20, 32))
    mixture.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = reload(tmp_path)
    ids, mask = padded(prompts(9, 4), "left")
    expected = mixture(ids, attention_mask=mask)
    found = loaded(ids, attention_mask=mask)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.gating_probs, expected.gating_probs)
    assert (type(loaded), loaded.config.expert_names) == (type(mixture), ["law", "code", "cells"])
    assert loaded.config.get_text_config().model_type == mixture.config.text_config.model_type


def test_tied_embeddings_are_saved_once(tmp_path: Path) -> None:
    merge(make_sources("gpt2")).save_pretrained(tmp_path)
    assert "language_model.lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = reload(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@torch.no_grad()
def test_in_bfloat16_the_gate_stays_in_float32(tmp_path: Path) -> None:
    sources = make_sources("llama")
    mixture = merge(sources)
    mixture.save_pretrained(tmp_path)
    loaded = reload(tmp_path, dtype=torch.bfloat16)
    assert {one.dtype for one in loaded.gating_network.state_dict().values()} == {torch.float32}
    assert {one.dtype for one in loaded.language_model.state_dict().values()} == {torch.bfloat16}
    ids = prompts(9)[0][None]
    assert loaded.get_gating_probs(ids).dtype == torch.float32
    torch.testing.assert_close(loaded.get_gating_probs(ids), mixture.get_gating_probs(ids), atol=1e-2, rtol=0)
    sources[2].save_pretrained(tmp_path / "source")
    source = reload(tmp_path / "source", dtype=torch.bfloat16)
    for mode in ("weighted_sum", "select_one"):
        expected = source(ids).logits
        assert torch.equal(loaded(ids, gating_probs=torch.eye(3)[[2]], mixture_mode=mode).logits, expected)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_quantization_leaves_the_gate_as_it_is(tmp_path: Path) -> None:
    mixture = merge(make_sources("llama"))
    mixture.save_pretrained(tmp_path)
    loaded = reload(tmp_path, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True))
    expert = loaded.language_model.model.layers[0].mlp.experts[1]
    assert expert.up_proj.weight.dtype == torch.int8
    ids = prompts(9)[0][None]
    torch.testing.assert_close(loaded.get_gating_probs(ids), mixture.get_gating_probs(ids), atol=1e-3, rtol=0)
    assert type(loaded.gating_network.output) is torch.nn.Linear


@torch.no_grad()
def test_texts_are_read_by_the_tokenizer_that_lies_beside_the_weights(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    sources = make_sources("llama")
    for source in sources:
        torch.manual_seed(1)
        source.resize_token_embeddings(len(tokenizer))
    mixture = merge(sources)
    mixture.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["the court of law", "return def"]
    found = reload(tmp_path).get_gating_probs(texts)
    assert torch.equal(mixture.get_gating_probs(texts, tokenizer=tokenizer), found)
    for at, text in enumerate(texts):
        ids = torch.tensor([tokenizer(text).input_ids])
        torch.testing.assert_close(found[at : at + 1], mixture.get_gating_probs(ids), atol=1e-6, rtol=0)
        torch.testing.assert_close(mixture.get_gating_probs(text, tokenizer=tokenizer)[0], found[at], atol=1e-6, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_a_process_with_transformers_alone_reads_the_checkpoints(tmp_path: Path) -> None:
    directories = [tmp_path / family for family in ("llama", "gpt_neo")]
    tokenizer, text = make_tokenizer(), "ABC"
    for directory in directories:
        mixture = merge(make_sources(directory.name))
        mixture.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        probs = mixture.get_gating_probs(text, tokenizer=tokenizer)
        ids, mask = padded(prompts(9, 4), "left")
        texts = mixture.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, mixture_mode="select_one")
        logits = mixture(ids, attention_mask=mask).logits
        given = {"ids": ids, "mask": mask, "logits": logits, "texts": texts, "text": text, "probs": probs}
        torch.save(given, directory / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, directories)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.stdout.split() == [
        *("GatedMixtureForCausalLM", "LlamaForCausalLM"),
        *("GatedMixtureForCausalLM", "GPTNeoForCausalLM"),
    ], done.stderr


def test_a_configuration_that_is_saved_alone_brings_the_same_code_as_a_model(tmp_path: Path) -> None:
    mixture = merge(make_sources("llama"))
    mixture.save_pretrained(tmp_path / "model")
    alone = GatedMixtureConfig(text_config=mixture.config.text_config, auto_map=auto_map("gated_mixture"))
    alone.save_pretrained(tmp_path / "alone")
    with_model = {path.name: path.read_text() for path in (tmp_path / "model").glob("*.py")}
    assert set(with_model) == {"gated_mixture.py", "gated_layers.py", "gating_network.py"}
    assert {path.name: path.read_text() for path in (tmp_path / "alone").glob("*.py")} == with_model
    maps = [json.loads((tmp_path / name / "config.json").read_text())["auto_map"] for name in ("model", "alone")]
    assert maps[0] == maps[1]
