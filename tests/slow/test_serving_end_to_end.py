"""The served system from a client's side: OpenAI's client, curl, and what the API says of itself."""

from collections.abc import Iterator

import pytest

from moe_ray.routing.router import Router
from tests.engines.openai_api import Api
from tests.engines.openai_api import serving as serving_api
from tests.routing.queries import query
from tests.support.served import Endpoint, endpoint_of, of_every_engine, train_router, write_served

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("served")
    with serving_api(Api()) as api:
        router = train_router(folder / "router")
        experiment = write_served(folder, of_every_engine(folder, api), router=router)
        with endpoint_of(experiment) as served:
            yield served


def test_a_query_of_a_domain_goes_to_its_expert_with_the_routers_own_probabilities(endpoint: Endpoint) -> None:
    asked = query("legal", 60_000).text
    answer = endpoint.chat("auto", asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["choices"][0]["message"]["content"]) == ("legal-expert", "I am the legal expert.")
    assert endpoint.served.system.router_dir is not None
    (expected,) = Router.load(endpoint.served.system.router_dir).route([asked])
    assert body["moe_ray"]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
