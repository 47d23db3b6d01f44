"""A gated mixture's answers, against its source models and against feed-forwards that are mixed by hand."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import transformers

from moe_ray.architectures.gated_layers import require_mixing_arrives
from moe_ray.architectures.gated_mixture import GatedMixtureConfig, GatedMixtureForCausalLM
from tests.architectures.gated import CONFIGS, FAMILIES, SHAPE, make_sources, merge, mixed_by_hand, padded, prompts

NEW = {"max_new_tokens": 6, "do_sample": False}
MODES = ("weighted_sum", "select_one")


def one_hot(expert: int, num_rows: int, num_experts: int = 3) -> torch.Tensor:
    return torch.eye(num_experts)[[expert] * num_rows]


@pytest.fixture(scope="module")
def sources() -> list[Any]:
    return make_sources("llama")


@pytest.fixture(scope="module")
def mixture(sources: list[Any]) -> Any:
    return merge(sources, expert_names=["law", "code", "cells"])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gate_that_is_sure_of_an_expert_gives_its_source_to_the_last_bit(family: str) -> None:
    sources = make_sources(family)
    mixture = merge(sources)
    ids, mask = padded(prompts(9, 5), "left")
    for expert, source in enumerate(sources):
        expected = source(ids, attention_mask=mask).logits
        for given in ({"gating_probs": one_hot(expert, 2)}, {"forced_expert": expert}):
            for mode in MODES:
                found = mixture(ids, attention_mask=mask, mixture_mode=mode, **given).logits
                assert torch.equal(found, expected), f"{family}, expert {expert}, {mode}, {list(given)}"
        wanted = source.generate(ids, attention_mask=mask, **NEW)
        assert torch.equal(mixture.generate(ids, attention_mask=mask, forced_expert=expert, **NEW), wanted)
    assert not torch.equal(sources[0](ids).logits, sources[1](ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gates_probabilities_weigh_the_experts_outputs(family: str) -> None:
    sources = make_sources(family)
    mixture = merge(sources)
    ids = prompts(9)[0][None]
    outputs = mixture(ids, output_hidden_states=True)
    by_hand = mixed_by_hand(sources, outputs.gating_probs[0].tolist())
    expected = by_hand(ids, output_hidden_states=True)
    assert outputs.gating_probs.max() < 0.95
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.hidden_states, expected.hidden_states, atol=1e-5, rtol=1e-5)
    for how in ({}, {"num_beams": 3}, {"use_cache": False}, {"prompt_lookup_num_tokens": 2}):
        assert torch.equal(mixture.generate(ids, **NEW, **how), by_hand.generate(ids, **NEW, **how))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma"])  # gemma scales what it looks up
def test_the_gate_reads_the_mean_of_the_prompts_input_embeddings(family: str) -> None:
    mixture = merge(make_sources(family))
    ids = prompts(9)[0][None]
    scale = 32**0.5 if family == "gemma" else 1.0
    rows = [mixture.get_input_embeddings().weight[int(token)].double() * scale for token in ids[0]]
    mean = torch.stack(rows).mean(dim=0, keepdim=True).float()
    expected = mixture.gating_network(mean).softmax(dim=1)
    torch.testing.assert_close(mixture.get_gating_probs(ids), expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_padding_and_neighbours_change_neither_the_gate_nor_the_logits(mixture: Any, side: str, mode: str) -> None:
    rows = prompts(9, 4, 6, 1)
    ids, mask = padded(rows, side)
    together = mixture(ids, attention_mask=mask, mixture_mode=mode)
    assert len(set(together.gating_probs.argmax(dim=1).tolist())) > 1
    for at, row in enumerate(rows):
        alone = mixture(row[None], mixture_mode=mode)
        torch.testing.assert_close(together.gating_probs[at], alone.gating_probs[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(together.logits[at][mask[at] == 1], alone.logits[0], atol=2e-5, rtol=1e-5)
    assert torch.equal(mixture.get_gating_probs(ids, mask), together.gating_probs)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"prefill_chunk_size": 2},
        {"cache_implementation": "static", "disable_compile": True},
    ],
    ids=str,
)
def test_a_batchs_texts_are_those_of_its_rows_alone(mixture: Any, mode: str, how: dict[str, Any]) -> None:
    rows = prompts(9, 4, 6)
    ids, mask = padded(rows, "left")
    together = mixture.generate(ids, attention_mask=mask, mixture_mode=mode, **NEW, **how)
    for at, row in enumerate(rows):
        beams = {key: value for key, value in how.items() if key == "num_beams"}
        alone = mixture.generate(row[None], mixture_mode=mode, use_cache=False, **NEW, **beams)
        assert torch.equal(together[at, ids.shape[1] :], alone[0, len(row) :])


@torch.no_grad()
def test_each_step_keeps_the_probabilities_of_the_prompt(mixture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = prompts(5)[0][None]
    asked, plain = [], mixture.gating_network.forward

    def counted(means: torch.Tensor) -> Any:
        asked.append(means)
        return plain(means)

    monkeypatch.setattr(mixture.gating_network, "forward", counted)
    text = mixture.generate(ids, **NEW)
    assert len(asked) == 1
    monkeypatch.undo()
    answer_too = mixture.get_gating_probs(text)
    assert not torch.allclose(answer_too, mixture.get_gating_probs(ids), atol=1e-3)


@torch.no_grad()
def test_several_samples_of_a_prompt_share_its_probabilities(mixture: Any) -> None:
    ids, mask = padded(prompts(9, 4), "left")
    torch.manual_seed(0)
    sampled = mixture.generate(ids, attention_mask=mask, do_sample=True, num_return_sequences=3, max_new_tokens=4)
    probs = mixture.get_gating_probs(ids, mask).repeat_interleave(3, dim=0)
    torch.manual_seed(0)
    repeated = [part.repeat_interleave(3, dim=0) for part in (ids, mask)]
    expected = mixture.generate(
        repeated[0], attention_mask=repeated[1], gating_probs=probs, do_sample=True, max_new_tokens=4
    )
    assert torch.equal(sampled, expected)


@torch.no_grad()
def test_a_chat_continues_over_its_cache_under_the_same_decision(mixture: Any) -> None:
    ids, more = (row[None] for row in prompts(7, 5))
    probs = mixture.get_gating_probs(ids)
    first = mixture.generate(ids, return_dict_in_generate=True, **NEW)
    longer = torch.cat([first.sequences, more], dim=1)
    expected = mixture.generate(longer, gating_probs=probs, use_cache=False, **NEW)
    with pytest.raises(ValueError, match="gating_probs or forced_expert"):
        mixture.generate(longer, past_key_values=first.past_key_values, **NEW)
    with pytest.raises(ValueError, match="gating_probs or forced_expert"):
        mixture(more, past_key_values=first.past_key_values)
    found = mixture.generate(longer, gating_probs=probs, past_key_values=first.past_key_values, **NEW)
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "gpt_neo"])
def test_embeddings_that_were_looked_up_already_stand_for_their_tokens(family: str) -> None:
    mixture = merge(make_sources(family))
    ids, mask = padded(prompts(9, 4), "left")
    embedded = mixture.get_input_embeddings()(ids)
    found, expected = mixture(inputs_embeds=embedded, attention_mask=mask), mixture(ids, attention_mask=mask)
    assert torch.equal(found.gating_probs, expected.gating_probs)
    assert torch.equal(found.logits, expected.logits)
    texts = mixture.generate(inputs_embeds=embedded, attention_mask=mask, **NEW)
    assert torch.equal(texts, mixture.generate(ids, attention_mask=mask, **NEW)[:, ids.shape[1] :])


@torch.no_grad()
def test_generate_masks_the_padding_token_where_no_mask_is_given(mixture: Any) -> None:
    ids, mask = padded(prompts(9, 4), "left")
    ids[mask == 0] = mixture.generation_config.pad_token_id
    assert torch.equal(mixture.generate(ids, **NEW), mixture.generate(ids, attention_mask=mask, **NEW))


@torch.no_grad()
def test_select_one_computes_only_the_chosen_expert_of_each_sequence(mixture: Any) -> None:
    ids, mask = padded(prompts(9, 4, 6, 1), "left")
    choices = mixture.get_gating_probs(ids, mask).argmax(dim=1).tolist()
    layer = mixture.language_model.model.layers[1].mlp
    rows_read = [0] * 3
    for place, expert in enumerate(layer.experts):
        expert.register_forward_pre_hook(
            lambda _, given, place=place: rows_read.__setitem__(place, rows_read[place] + given[0].shape[0])
        )
    mixture(ids, attention_mask=mask, mixture_mode="select_one")
    assert rows_read == [choices.count(expert) for expert in range(3)]
    mixture(ids, attention_mask=mask, forced_expert="cells")
    assert rows_read == [choices.count(0), choices.count(1), choices.count(2) + 4]
    for expert in layer.experts:
        expert._forward_pre_hooks.clear()


def test_threads_that_share_a_model_do_not_mix_their_gates(mixture: Any) -> None:
    rows = prompts(*(3 + at % 7 for at in range(12)))

    def answer(at: int) -> torch.Tensor:
        found: torch.Tensor = mixture.generate(rows[at][None], mixture_mode=MODES[at % 2], **NEW)
        return found

    expected = [answer(at) for at in range(len(rows))]
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(answer, [*range(len(rows))] * 3))
    assert all(torch.equal(one, expected[at % len(rows)]) for at, one in enumerate(found))
    assert len({tuple(mixture.get_gating_probs(row[None]).argmax(dim=1).tolist()) for row in rows}) > 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"forced_expert": 3}, "0 to 2: law, code, cells"),
        ({"forced_expert": -1}, "there is no expert -1"),
        ({"forced_expert": "laws"}, "there is no expert 'laws'"),
        ({"forced_expert": 0, "gating_probs": torch.eye(3)[:1]}, "not both"),
        ({"gating_probs": torch.eye(2)[:1]}, r"\[1, 3\], not \[1, 2\]"),
        ({"gating_probs": torch.eye(3)}, r"\[1, 3\], not \[3, 3\]"),
        ({"mixture_mode": "mean"}, "weighted_sum or select_one, not 'mean'"),
        ({"attention_mask": torch.zeros(1, 5)}, "no prompt"),
        ({"attention_mask": torch.ones(1, 1, 5, 5)}, "masks of shape"),
        ({"inputs_embeds": torch.ones(1, 5, 32)}, "one of the two"),
    ],
)
def test_what_cannot_be_meant_is_refused(mixture: Any, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        mixture(prompts(5)[0][None], **given)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mixture_mode": "mean"}, "weighted_sum"),
        ({"num_experts": 1}, "at least 2"),
        ({"expert_names": ["a", "a"]}, "2 different"),
        ({"expert_names": ["a"]}, "2"),
    ],
)
def test_a_configuration_that_no_model_could_have_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GatedMixtureConfig(text_config=transformers.LlamaConfig(**SHAPE), **settings)


def test_a_family_without_an_mlp_in_its_layers_is_refused() -> None:
    opt = transformers.OPTConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1, ffn_dim=32, word_embed_proj_dim=24)
    with pytest.raises(ValueError, match="OPTForCausalLM have no `mlp`"):
        GatedMixtureForCausalLM(GatedMixtureConfig(text_config=opt))


def test_a_family_that_keeps_the_gates_decision_from_its_layers_is_refused() -> None:
    falcon = transformers.FalconConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    mixture = GatedMixtureForCausalLM(GatedMixtureConfig(text_config=falcon))
    for refused in (lambda: mixture(torch.tensor([[3, 4]])), lambda: require_mixing_arrives(mixture.language_model)):
        with pytest.raises(ValueError, match="hands no keywords to its layers"):
            refused()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_layers_hear_the_gates_decision_before_there_are_any_weights(family: str) -> None:
    with torch.device("meta"):
        mixture = GatedMixtureForCausalLM(GatedMixtureConfig(text_config=CONFIGS[family]))
    require_mixing_arrives(mixture.language_model)
