import json
from collections import Counter
from pathlib import Path

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.example import Example
from moe_ray.domains.loading import load_domain
from tests.domains.records import authors_pubmedqa, by_id, hub_pubmedqa, load, shared, text_of


def dev500(**config: object) -> tuple[Example, ...]:
    source = shared("biomedical/pubmedqa_dev500.json")
    section = {"task": "pubmedqa", "data": {"source": source}, **config}
    return load_domain("biomedical", DomainConfig.model_validate(section), Path()).examples


def labels_of(examples: tuple[Example, ...]) -> Counter[object]:
    return Counter(example.grading["label"] for example in examples)


def test_both_published_formats_give_the_same_example(tmp_path: Path) -> None:
    (tmp_path / "ori_pqal.json").write_text(json.dumps({"7": authors_pubmedqa()}))
    config = DomainConfig.model_validate({"task": "pubmedqa", "data": {"source": "./ori_pqal.json"}})
    of_authors = load_domain("field", config, tmp_path).examples
    assert of_authors == load(tmp_path, [hub_pubmedqa(7)], "pubmedqa").examples
    (example,) = of_authors
    assert (example.id, example.grading["label"]) == ("7", "yes")
    assert example.reference == "SECRETCONCLUSION zeta cures it."


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_a_prompt_holds_question_and_paragraphs_and_nothing_that_gives_the_answer_away(
    style: str, tmp_path: Path
) -> None:
    for record in (hub_pubmedqa(), {"id": "7", **authors_pubmedqa()}):
        (example,) = load(tmp_path, [record], "pubmedqa").examples
        text = text_of(example, style)
        assert "SECRET" not in text
        for wanted in ("Does zeta cure omega?", "Forty mice had omega.", "Half of them got zeta."):
            assert text.count(wanted) == 1


def test_continuations_fit_the_style(tmp_path: Path) -> None:
    (example,) = load(tmp_path, [hub_pubmedqa()], "pubmedqa").examples
    chat, completion = example.prompts["chat"], example.prompts["completion"]
    assert chat.choices == ("yes", "no", "maybe")
    assert completion.choices == (" yes", " no", " maybe")
    assert completion.messages[0].content.endswith("Answer:")
    assert chat.reference == example.reference
    assert completion.reference == f" {example.reference}"


def test_prompts_stops_and_columns_can_be_overridden(tmp_path: Path) -> None:
    prompt = {
        "system": "You are brief.",
        "template": "{question} {{yes}}",
        "completion_template": "{context}>",
        "stop": ["#"],
    }
    record = {**hub_pubmedqa(), "pmid": "x9"}
    (example,) = load(tmp_path, [record], "pubmedqa", prompt=prompt, columns={"id": "pmid"}).examples
    assert example.id == "x9"
    assert [message.role for message in example.prompts["chat"].messages] == ["system", "user"]
    assert text_of(example, "chat") == "You are brief.\nDoes zeta cure omega? {yes}"
    assert text_of(example, "completion") == "Forty mice had omega.\nHalf of them got zeta.>"
    assert example.prompts["chat"].stop == example.prompts["completion"].stop == ("#",)


@pytest.mark.parametrize("text", ["8\n9\n\n", '["8", 9, "70"]', '{"8": "yes", "9": "no"}'])
def test_an_ids_file_keeps_only_its_ids(text: str, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(text)
    records = [hub_pubmedqa(pubid) for pubid in (7, 8, 9)]
    data = {"source": "./records.jsonl", "ids_file": "ids.txt"}
    domain = load(tmp_path, records, "pubmedqa", data=data)
    assert set(by_id(domain)) == {"8", "9"}
    assert domain.data_fingerprint["num_skipped"] == {"not in ids_file": 1}
    assert domain.data_fingerprint["ids_file"]["num_missing_in_data"] == int("70" in text)


def test_the_real_records_have_the_published_labels() -> None:
    assert labels_of(dev500()) == {"yes": 276, "no": 169, "maybe": 55}


def test_no_real_prompt_holds_its_conclusion() -> None:
    for example in dev500():
        for style in ("chat", "completion"):
            assert example.reference not in text_of(example, style)


def test_a_limited_real_sample_has_about_the_labels_of_the_whole() -> None:
    shares = {"yes": 276 / 500, "no": 169 / 500, "maybe": 55 / 500}
    drawn = labels_of(dev500(max_examples=150))
    for label, share in shares.items():
        # Four standard errors of a share of 150 drawn out of 500 without replacement.
        error = (share * (1 - share) / 150 * (350 / 499)) ** 0.5
        assert abs(drawn[label] / 150 - share) < 4 * error
