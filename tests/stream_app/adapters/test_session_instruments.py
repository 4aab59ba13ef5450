"""What is shown of stored sessions and their changelog."""

from prometheus_client import CollectorRegistry

from stream_app.adapters.session_instruments import SessionInstruments


def test_what_is_stored_replaces_and_what_is_sent_adds_up() -> None:
    registry = CollectorRegistry()
    instruments, value = SessionInstruments(registry), registry.get_sample_value
    assert value("nextclick_rebalances_total") == 0
    instruments.rebalanced()
    for sessions in (7, 5):
        instruments.stored(sessions)
        instruments.sent(3, 900)
    assert value("nextclick_rebalances_total") == 1
    assert value("nextclick_stored_sessions") == 5
    assert value("nextclick_changelog_records_total") == 6
    assert value("nextclick_changelog_bytes_total") == 1_800
