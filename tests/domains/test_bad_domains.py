from pathlib import Path

import pytest

from moe_ray.config.schema import DomainConfig
from moe_ray.domains.loading import load_domain

from .bad_domains import BAD_DOMAINS, BadDomain


@pytest.mark.parametrize("case", BAD_DOMAINS, ids=lambda case: case.name)
def test_a_wrong_domain_is_refused_with_its_place_and_remedy(case: BadDomain, tmp_path: Path) -> None:
    for name, text in case.files.items():
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    config = DomainConfig.model_validate({"data": {"source": "./d.jsonl"}, **case.section})
    with pytest.raises(case.kind) as caught:
        load_domain("field", config, tmp_path)
    assert case.what in caught.value.what
    assert case.where in str(caught.value.where)
    assert caught.value.remedy
    assert case.remedy in caught.value.remedy
    assert "\n" not in caught.value.what + caught.value.remedy


def test_the_cases_have_names_of_their_own() -> None:
    assert len({case.name for case in BAD_DOMAINS}) == len(BAD_DOMAINS)
