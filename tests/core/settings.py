"""How long hypothesis may look: no test here depends on the clock."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

CORE = settings(
    max_examples=200,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
