"""How many damaged files each test tries: a few in `make test`, thousands with --hypothesis-profile=thorough."""

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings

COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],  # a damaged file is told as it is: to shrink one takes minutes
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
}
settings.register_profile("quick", max_examples=40, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
