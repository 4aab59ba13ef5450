"""Hypothesis profiles: `dev` finds new examples every time, `ci` the same ones, always."""

import os

from hypothesis import HealthCheck, settings

# A shared two-core machine stalls now and then: a slow example is no finding.
_PATIENT = (HealthCheck.too_slow,)

settings.register_profile("dev", max_examples=60, deadline=None, suppress_health_check=_PATIENT)
settings.register_profile(
    "ci",
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=_PATIENT,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
