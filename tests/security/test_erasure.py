"""An erase event arrives wherever it is sent from; what it does everywhere is in `test_locked_broker`."""

from pathlib import Path

from stream_app.core.clicks import decode_click, encode_click
from stream_app.files.click_files import iter_clicks


def test_an_erase_event_needs_no_item_and_survives_a_replay(tmp_path: Path) -> None:
    """It came back as one with an empty item id, and so as a dead letter: the session stayed."""
    file = tmp_path / "clicks.jsonl"
    file.write_text('{"session_id": "s", "event_type": "erase", "event_time": 1764000000000}\n')
    (event,) = iter_clicks(file)
    assert decode_click(encode_click(event)) == event
