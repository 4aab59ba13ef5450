"""Replicas that are all started alike must not share a place, and must find again what they left."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.core.errors import ConfigurationError
from stream_app.files.shared_directory import own_place

HOLD = """
import sys, time
from pathlib import Path
from stream_app.files.shared_directory import own_place
with own_place(Path(sys.argv[1])) as place:
    print(place, flush=True)
    time.sleep(600)
"""


def test_each_holder_has_a_place_of_its_own_lowest_number_first(tmp_path: Path) -> None:
    with own_place(tmp_path) as first, own_place(tmp_path) as second:
        assert [first, second] == [tmp_path / "0", tmp_path / "1"]


def test_a_place_given_back_is_taken_again_with_what_was_left_there(tmp_path: Path) -> None:
    with own_place(tmp_path), own_place(tmp_path) as second:
        (second / "instance-id").write_text("worker-a\n")
    with own_place(tmp_path), own_place(tmp_path) as again:
        assert (again / "instance-id").read_text() == "worker-a\n"


def test_a_process_that_is_killed_gives_its_place_back(tmp_path: Path) -> None:
    """No file that it leaves behind can hold the place: the lock ends with the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(tmp_path / "0")
        with own_place(tmp_path) as beside:
            assert beside == tmp_path / "1"
        process.send_signal(signal.SIGKILL)
    with own_place(tmp_path) as after:
        assert after == tmp_path / "0"


def test_a_place_is_nobody_elses_business(tmp_path: Path) -> None:
    with own_place(tmp_path / "workers") as place:
        assert place.stat().st_mode & 0o077 == 0
        assert place.parent.stat().st_mode & 0o077 == 0


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match=r"shared_data_dir .* may write to"),
        own_place(tmp_path / "file"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
