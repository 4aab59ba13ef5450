"""aiokafka's part in the group may end by an error that Faust does not see."""

from pathlib import Path

from stream_app.core.errors import InvariantError
from stream_app.settings import Settings
from tests.integration.processes import NextclickProcess

UNUSABLE_SHARE = """
import runpy, sys
from faust.assignor.partition_assignor import PartitionAssignor

def unusable(*_):
    raise AssertionError("this share is not mine")

PartitionAssignor.on_assignment = unusable
sys.argv.insert(1, "worker")
runpy.run_module("stream_app", run_name="__main__", alter_sys=True)
"""


def test_a_worker_that_can_never_be_given_its_partitions_ends_and_says_why(
    settings: Settings, tmp_path: Path
) -> None:
    """It waited for them for ever: alive, not ready, and nothing in its log."""
    program = ("-c", UNUSABLE_SHARE)
    flags = ("--metrics-port", "0")
    with NextclickProcess("worker", settings, tmp_path, *flags, program=program) as process:
        assert process.process.wait(60) == InvariantError.exit_status, process.log
        assert "this share is not mine" in process.events("worker_ends")[-1]["error"]
