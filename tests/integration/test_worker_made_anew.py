"""A container that is made anew has its volume and its name in the group, but another host name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stream_app.settings import TopicSettings
from tests.integration.processes import NextclickProcess, get, wait_until


@pytest.fixture
def topics(make_topics: Callable[..., TopicSettings]) -> TopicSettings:
    return make_topics(partitions=2)


def test_a_worker_gets_its_share_again_under_another_host_name(
    worker: Callable[..., NextclickProcess],
    port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Longer than the second start takes, so that it is handed the share it had, not a new one.
    session = ("--set", "kafka.session_timeout_seconds=40")
    for host in ("as-it-was", "made-anew"):
        monkeypatch.setenv("WEB_HOST", host)  # where Faust looks first, then at the host's own name
        with worker(*session, data_dir=tmp_path / "worker") as process:
            wait_until("the worker is ready", lambda: get(port, "/readyz")[0] == 200, 20)
            assert process.events("partitions_assigned")[-1]["partitions"] == [0, 1]
            process.process.kill()
