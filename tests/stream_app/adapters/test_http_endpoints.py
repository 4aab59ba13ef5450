"""The endpoints of a process, over real sockets."""

import json
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from stream_app.adapters.http_endpoints import serve
from stream_app.core.errors import ConfigurationError


class Served:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.counter = Counter("nextclick_test", "For tests.", registry=self.registry)
        self.ready = (False, "restoring")
        self.server = serve("127.0.0.1", 0, registry=self.registry, is_ready=lambda: self.ready)

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        request = urllib.request.Request(self.server.url + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture
def served():
    served = Served()
    yield served
    served.server.close()


def test_metrics_are_served_as_prometheus_reads_them(served):
    served.counter.inc(3)
    status, body = served.get("/metrics")
    assert status == 200
    assert b"nextclick_test_total 3.0" in body


def test_readiness_says_503_with_the_reason_and_then_200(served):
    status, body = served.get("/readyz")
    assert status == 503
    assert json.loads(body) == {"status": "unavailable", "reason": "restoring"}
    served.ready = (True, "serving v1")
    status, body = served.get("/readyz")
    assert (status, json.loads(body)["reason"]) == (200, "serving v1")


def test_a_process_is_healthy_before_it_is_ready(served):
    assert served.get("/healthz")[0] == 200
    assert served.get("/readyz")[0] == 503


def test_a_check_that_raises_means_no(served):
    served.ready = None  # not a pair: unpacking it raises
    status, body = served.get("/readyz")
    assert status == 503
    assert "TypeError" in json.loads(body)["reason"]


@pytest.mark.parametrize("path", ["/", "/debug", "/metrics/../etc/passwd", "/readyz/"])
def test_nothing_else_is_served(served, path):
    assert served.get(path)[0] == 404


def test_only_reading_is_possible(served):
    assert served.get("/metrics", "POST")[0] == 501
    assert served.get("/readyz", "HEAD") == (503, b"")


def test_a_taken_port_is_a_configuration_error_that_names_the_flag(served):
    with pytest.raises(ConfigurationError, match="--metrics-port"):
        serve(
            "127.0.0.1",
            served.server.port,
            registry=CollectorRegistry(),
            is_ready=lambda: (True, ""),
        )


def test_the_port_is_free_again_after_closing(served):
    port = served.server.port
    served.server.close()
    again = serve("127.0.0.1", port, registry=CollectorRegistry(), is_ready=lambda: (True, ""))
    again.close()
