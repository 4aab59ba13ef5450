"""Where the live pointer goes, as a value; the topic itself is in `tests/integration`."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.adapters.releases import HISTORY_MAX, Release, first_release
from stream_app.core.errors import ConfigurationError


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=HISTORY_MAX))
def test_rolling_back_undoes_promotions_in_reverse_order(versions: list[str]) -> None:
    release = first_release(versions[0], "")
    for version in versions[1:]:
        release = release.promoted(version, "")
    for version in reversed(versions[:-1]):
        before = release.model_version
        release = release.rolled_back("")
        assert (release.model_version, release.previous) == (version, before)
    with pytest.raises(ConfigurationError, match="models promote none"):
        release.rolled_back("")


def test_history_stays_bounded() -> None:
    release = first_release("v0", "")
    for number in range(1, 100):
        release = release.promoted(f"v{number}", "")
    assert len(release.history) == HISTORY_MAX
    assert release.history[-1] == "v98"


def test_going_back_to_popularity_is_a_promotion_that_can_be_undone() -> None:
    release = first_release("v1", "").promoted(None, "the model misbehaves")
    assert release.model_version is None
    assert release.rolled_back("").model_version == "v1"


def test_a_newer_record_with_more_fields_is_still_read() -> None:
    data = b'{"model_version":"v9","released_at":"2026-01-01T00:00:00Z","canary":0.1}'
    assert msgspec.json.decode(data, type=Release).model_version == "v9"
