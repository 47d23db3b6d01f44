"""Merging fine-tunes: what the mixture computes, what it is made of, and which sources are refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from moe_ray import architectures
from moe_ray.errors import ModelError
from moe_ray.fingerprint import file_sha256
from moe_ray.moe.certificate import read_certificate
from moe_ray.moe.merge.build import build_merge
from moe_ray.moe.merge.plan import plan_merge
from tests.moe.merge.fine_tunes import EXPERTS, change_tensors, fine_tune, make_all, make_base, make_gate

TEXTS = ["the court is a question of law", "def sum of a list", "yes"]


def load(directory: Path) -> Any:
    architectures.register()
    return transformers.AutoModelForCausalLM.from_pretrained(directory).eval()


def ids(directory: Path) -> tuple[torch.Tensor, torch.Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, padding_side="left")
    encoded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return encoded["input_ids"], encoded["attention_mask"]


@pytest.mark.parametrize(
    "architecture", ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "gpt2", "gpt_neo", "phi3"]
)
def test_each_expert_alone_is_its_source_to_the_last_bit(architecture: str, tmp_path: Path) -> None:
    models, gate = make_all(tmp_path, architecture)
    certificate = build_merge(plan_merge(models, gate), tmp_path / "out")
    mixture, (input_ids, mask) = load(tmp_path / "out"), ids(tmp_path / "out")
    for expert, path in models.items():
        with torch.inference_mode():
            alone = mixture(input_ids, attention_mask=mask, forced_expert=expert).logits
            assert torch.equal(alone, load(path)(input_ids, attention_mask=mask).logits)
        record = next(one for one in certificate.exactness if one.against == expert)
        assert (record.max_logit_difference, record.greedy_agreement, record.reload_equal) == (0.0, 1.0, True)
    assert certificate.layers[1].state == "converted"
    assert [one.layer for one in certificate.layers] == [0, 1]


def test_three_sources_are_mixed_as_a_plain_sum_over_experts_says(tmp_path: Path) -> None:
    """The last layer's mixture, recomputed from the sources' own modules on the mixture's own hidden states."""
    base = make_base(tmp_path / "base", "llama")
    names = ("a", "b", "c")
    models = {name: fine_tune(base, tmp_path / name, seed) for seed, name in enumerate(names)}
    build_merge(plan_merge(models, make_gate(tmp_path / "gate", base, experts=names)), tmp_path / "out", check=False)
    mixture, (input_ids, mask) = load(tmp_path / "out"), ids(tmp_path / "out")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    mixture.language_model.model.layers[1].mlp.register_forward_hook(
        lambda module, inputs, kwargs, output: seen.append((inputs[0], output)), with_kwargs=True
    )
    with torch.inference_mode():
        probs = mixture(input_ids, attention_mask=mask).gating_probs
        hidden, mixed = seen[0]
        parts = [load(path).model.layers[1].mlp(hidden) for path in models.values()]
    plain = sum(probs[:, at, None, None] * part for at, part in enumerate(parts))
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-5)
    assert probs.min() > 0.0


@pytest.mark.parametrize("mode", ["weighted_sum", "select_one"])
def test_the_mode_and_the_experts_stand_in_the_config(mode: Any, tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    certificate = build_merge(plan_merge(models, gate, mode=mode), tmp_path / "out", check=False)
    config = load(tmp_path / "out").config
    assert (config.mixture_mode, config.expert_names, config.num_experts) == (mode, list(EXPERTS), 2)
    assert certificate.exactness == []


def test_models_are_taken_in_the_gates_order_whatever_order_they_are_given_in(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    plan = plan_merge(dict(reversed(models.items())), gate)
    assert [source.name for source in plan.sources] == list(EXPERTS)


def test_the_certificate_names_the_origin_of_every_tensor(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    made = build_merge(plan_merge(models, gate), tmp_path / "out")
    stored = read_certificate(tmp_path / "out")
    assert stored == made
    assert "fine-tunes of one model behind a gate" in (tmp_path / "out" / "README.md").read_text()
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {origin.tensor for origin in stored.tensors} == set(tensors)
    sources = {expert: load_file(path / "model.safetensors") for expert, path in models.items()}
    for origin in stored.tensors:
        if origin.source is not None and origin.source_tensor is not None:
            assert torch.equal(tensors[origin.tensor], sources[origin.source][origin.source_tensor])
        else:
            assert origin.tensor.startswith("gating_network.")
    assert stored.tensors_sha256["model.safetensors"] == file_sha256(tmp_path / "out" / "model.safetensors")
    assert [source.name for source in stored.sources] == list(EXPERTS)


def test_weights_in_several_files_are_the_same_mixture(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    plan = plan_merge(models, gate)
    build_merge(plan, tmp_path / "one", check=False)
    sizes: list[int] = []
    build_merge(plan, tmp_path / "several", check=False, max_shard_bytes=20_000, on_bytes=sizes.append)
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    one, several = (load(tmp_path / name).state_dict() for name in ("one", "several"))
    assert all(torch.equal(one[name], several[name]) for name in one)
    assert sum(sizes) == plan.num_bytes


def test_a_bfloat16_mixture_keeps_its_type_and_its_gate_in_float32(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "llama")
    load(base).bfloat16().save_pretrained(base)
    models = {expert: fine_tune(base, tmp_path / expert, seed) for seed, expert in enumerate(EXPERTS)}
    for path in models.values():
        change_tensors(path, lambda _, tensor: tensor.bfloat16())
    build_merge(plan_merge(models, make_gate(tmp_path / "gate", base)), tmp_path / "out")
    mixture = load(tmp_path / "out")
    assert mixture.language_model.model.layers[0].mlp.experts[1].up_proj.weight.dtype == torch.bfloat16
    assert mixture.gating_network.output.weight.dtype == torch.float32


def test_a_tensor_that_differs_outside_the_feed_forwards_is_refused_by_name_or_reported(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    changed = "model.layers.1.self_attn.q_proj.weight"
    change_tensors(models["code"], lambda name, tensor: tensor + 0.25 if name == changed else tensor)
    with pytest.raises(ModelError, match=f"code: {changed} differs by up to 0.25") as caught:
        plan_merge(models, gate)
    assert "--take-first" in str(caught.value)
    certificate = build_merge(plan_merge(models, gate, take_first=True), tmp_path / "out")
    assert certificate.settings["taken_from_first"] == [f"code: {changed} differs by up to 0.25"]
    exact = {one.against: one.max_logit_difference for one in certificate.exactness}
    assert exact["legal"] == 0.0
    assert exact["code"] > 0.1


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("config.json", {"rms_norm_eps": 0.1}, "rms_norm_eps"),
        ("config.json", {"num_key_value_heads": 4}, "k_proj"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "tokenizer.json"),
        ("generation_config.json", {"eos_token_id": [1, 5]}, "generation_config.json differs in eos_token_id"),
        ("config.json", {"eos_token_id": 7}, "eos_token_id 7, not 1"),
    ],
)
def test_what_else_differs_is_refused_by_name(file: str, changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    edit_json(models["code"] / file, **changes)
    with pytest.raises(ModelError, match=named.replace(".", r"\.")):
        plan_merge(models, gate)


def test_another_chat_template_is_refused_or_the_firsts_is_taken(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    template = models["code"] / "chat_template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    with pytest.raises(ModelError, match=r"code: chat_template\.jinja differs"):
        plan_merge(models, gate)
    build_merge(plan_merge(models, gate, take_first=True), tmp_path / "out", check=False)
    kept = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert kept == (models["legal"] / "chat_template.jinja").read_text() != template.read_text()


def test_a_gate_of_another_base_is_refused(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)
    edit_json(gate / "gate.json", embeddings_sha256="0" * 64)
    with pytest.raises(ModelError, match="not what the gate was trained on"):
        plan_merge(models, gate)
    with pytest.raises(ModelError, match="chooses between legal, code; the models are law, code"):
        plan_merge({"law": models["legal"], "code": models["code"]}, gate)
    wide = make_base(tmp_path / "gpt2", "gpt2")
    shutil.copytree(gate, tmp_path / "narrow")
    edit_json(tmp_path / "narrow" / "gating.json", num_inputs=16)
    with pytest.raises(ModelError, match=r"gating\.safetensors"):
        plan_merge(models, tmp_path / "narrow")
    with pytest.raises(ModelError, match="not a gate directory"):
        plan_merge(models, wide)


def test_a_family_without_an_mlp_is_refused(tmp_path: Path) -> None:
    config = transformers.OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=300, word_embed_proj_dim=32
    )
    base = make_base(tmp_path / "base", "llama")
    for file in ("config.json", "model.safetensors"):
        (base / file).unlink()
    transformers.OPTForCausalLM(config).save_pretrained(base)
    models = {expert: shutil.copytree(base, tmp_path / expert) for expert in EXPERTS}
    gate = make_gate(tmp_path / "gate", make_base(tmp_path / "llama", "llama"))
    with pytest.raises(ModelError, match="no `mlp`"):
        plan_merge(models, gate)


def test_a_place_that_is_taken_and_a_full_disk_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, gate = make_all(tmp_path)
    plan = plan_merge(models, gate)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="already exists"):
        build_merge(plan, tmp_path / "taken")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(ModelError, match=r"GB are needed, and 0\.00 GB are free"):
        build_merge(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_merge_leaves_nothing_at_its_place(tmp_path: Path) -> None:
    models, gate = make_all(tmp_path)

    def interrupt(num_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_merge(plan_merge(models, gate), tmp_path / "out", on_bytes=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "code", "gate", "legal"]
