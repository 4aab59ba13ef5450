"""Nobody but this machine reaches a port that was not opened on purpose."""

import inspect
from pathlib import Path

from prometheus_client import CollectorRegistry

from stream_app.adapters import http_endpoints
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.demo import services, workspace
from stream_app.settings import Settings


def test_metrics_and_health_are_served_on_loopback_unless_told_otherwise() -> None:
    """One setting for every service: worker, archive, statistics, retrain."""
    metrics = Settings().metrics
    assert metrics.host == "127.0.0.1"
    server = http_endpoints.serve(
        metrics.host, 0, registry=CollectorRegistry(), is_ready=lambda: (True, "")
    )
    try:
        assert server._server.socket.getsockname()[0] == "127.0.0.1"
    finally:
        server.close()


def test_every_listener_of_the_local_broker_is_on_loopback(tmp_path: Path) -> None:
    """The one for controllers too; what runs is looked at in `test_locked_broker`."""
    broker = LocalKafka(tmp_path)
    broker._port = 9
    lines = dict(
        line.partition("=")[::2] for line in broker._write_properties().read_text().splitlines()
    )
    for name in ("listeners", "advertised.listeners"):
        for listener in lines[name].split(","):
            assert listener.split("://")[1].startswith("127.0.0.1:"), listener
    assert (tmp_path / "server.properties").stat().st_mode & 0o777 == 0o600


def test_the_demo_opens_ports_on_loopback_only() -> None:
    for module in (services, workspace):
        assert "0.0.0.0" not in inspect.getsource(module)
    assert "--metrics-host" not in inspect.getsource(services)


def test_fausts_own_web_server_stays_off() -> None:
    """What a running worker listens on is looked at in `test_locked_broker`."""
    from stream_app.adapters import faust_transport  # noqa: PLC0415

    assert "web_enabled=False" in inspect.getsource(faust_transport)
