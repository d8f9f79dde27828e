"""How hard the properties are tried: few examples by default, CRIPROXY_FUZZ_EXAMPLES for more.

In CI (``CI=true``) the examples are the same each time, so that a failure is that commit's.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "criproxy",
    max_examples=int(os.environ.get("CRIPROXY_FUZZ_EXAMPLES", "60")),
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("criproxy")
