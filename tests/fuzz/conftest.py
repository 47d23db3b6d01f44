"""How many damaged files each test tries: a few in `make test`, thousands with --hypothesis-profile=thorough."""

import os

from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],  # a damaged file is told as it is: to shrink one takes minutes
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=40, **COMMON)
settings.register_profile("thorough", max_examples=400, **{**COMMON, "derandomize": False})
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
