"""How often a client may ask, and which names are loopback's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.gateway.guard import CLIENTS_MAX, ClientRate, _without_port


@given(
    st.floats(1, 50),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
)
def test_a_client_never_gets_more_than_its_rate_and_one_full_second_at_once(
    per_second: float, pauses: list[float]
) -> None:
    rate, now, allowed = ClientRate(per_second), 0.0, 0
    for pause in pauses:
        now += pause
        allowed += rate.allows("client", now)
    assert allowed <= per_second * (now + 1) + 1e-6


def test_clients_are_counted_apart_and_come_back_after_a_pause() -> None:
    rate = ClientRate(2.0)
    assert [rate.allows("a", 0.0) for _ in range(3)] == [True, True, False]
    assert rate.allows("b", 0.0)
    assert rate.allows("a", 0.5)
    assert not rate.allows("a", 0.5)


def test_no_limit_is_no_limit() -> None:
    rate = ClientRate(0)
    assert all(rate.allows("a", 0.0) for _ in range(10_000))


def test_however_many_addresses_ask_the_memory_for_them_is_bounded() -> None:
    rate = ClientRate(1.0)
    for number in range(CLIENTS_MAX + 500):
        rate.allows(str(number), 0.0)
    assert len(rate._clients) == CLIENTS_MAX


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8480", "localhost"),
        ("LocalHost", "localhost"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("127.0.0.1:1", "127.0.0.1"),
        ("localhost:80@evil.example", "localhost:80@evil.example"),
        ("", ""),
    ],
)
def test_a_host_is_compared_without_its_port(host: str, name: str) -> None:
    assert _without_port(host) == name
