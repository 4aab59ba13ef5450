"""What the gateway's callers get who ask for too much, too slowly, too often, or for what is not theirs."""

import asyncio
import http.client
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest
import structlog
from confluent_kafka import Consumer, TopicPartition

from stream_app.adapters import kafka_topics
from stream_app.core.errors import ConfigurationError
from stream_app.gateway import server
from stream_app.gateway.open_files import allow_open_files
from stream_app.logging_setup import set_up_logging
from stream_app.settings import Settings
from tests.integration.conftest import TestKafka
from tests.integration.gateways import GatewayThread, made_click
from tests.integration.oracle import read_topic
from tests.integration.processes import wait_until
from tests.topics import made_up_topics

TOKEN = "a-token-of-enough-length"
JSON = "application/json"


@pytest.fixture(scope="module")
def settings(kafka: TestKafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """No worker runs, so nothing is answered."""
    topics = made_up_topics("gateway-limits", partitions=1)
    settings = Settings(
        kafka=kafka.settings, topics=topics, registry=str(tmp_path_factory.mktemp("registry"))
    )
    kafka_topics.create_topics(settings.kafka, topics)
    yield settings
    with kafka_topics.admin_client(settings.kafka) as admin:
        admin.delete_topics(kafka_topics.names_of(topics))


@pytest.fixture(scope="module")
def gateway(settings: Settings) -> Iterator[GatewayThread]:
    """With the limits it has by default, and patience with a busy machine."""
    with GatewayThread(
        settings, cors_origins=("https://shop.example",), store_ms_max=60_000
    ) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(settings: Settings) -> Iterator[GatewayThread]:
    """Gives up who is slow after a second."""
    with GatewayThread(settings, idle_seconds_max=1.0) as running:
        yield running


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Puts back what `set_up_logging` changes for the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("nextclick")
    before = (root.handlers[:], root.level, ours.level, sys.excepthook, threading.excepthook)
    structlog_before = structlog.get_config()
    yield
    root.handlers[:], root.level, ours.level, sys.excepthook, threading.excepthook = before
    structlog.configure(**structlog_before)


def _send_headers(connection: socket.socket, count: int) -> None:
    for number in range(count):
        connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        time.sleep(0.001)


def _stored(settings: Settings) -> int:
    """Clicks on the topic, which has one partition."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": "looks-only"}
    )
    try:
        _, end = consumer.get_watermark_offsets(
            TopicPartition(settings.topics.clicks, 0), timeout=60
        )
    finally:
        consumer.close()
    return int(end)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "EmptyValue"),
        (b'{"session_id": "s", ', "MalformedJson"),
        (b"\xff\xfe{}", "NotUtf8"),
        (b"[" * 5000, "WrongType"),
        (b'{"item_id": "i", "event_time": 1700000000000}', "MissingField"),
        (b'{"session_id": "s", "item_id": "i"}', "MissingField"),
        (b'{"session_id": {"a": 1}, "item_id": "i", "event_time": 1700000000000}', "WrongType"),
        (b'{"session_id": "s", "item_id": "i", "event_time": 17}', "BadEventTime"),
        (
            b'{"session_id": "s", "item_id": "i", "event_time": "9999-12-31T23:59:59Z"}',
            "BadEventTime",
        ),
        (
            b'{"session_id": "\\ud800", "item_id": "i", "event_time": 1700000000000}',
            "MalformedJson",
        ),
    ],
)
def test_what_the_worker_would_dead_letter_is_refused_with_the_same_words(
    gateway: GatewayThread, settings: Settings, body: bytes, kind: str
) -> None:
    stored = _stored(settings)
    answer = gateway.call("POST", "/v1/clicks?wait=100", body)
    assert (answer.status, answer.kind) == (400, kind)
    assert answer.json["error"]["message"]
    assert _stored(settings) == stored


def test_a_click_is_stored_byte_for_byte_under_its_session(
    gateway: GatewayThread, settings: Settings
) -> None:
    """And waiting for an answer that nobody gives ends with 202: the click is there."""
    body = made_click("s-1", "i", unknown_field=[1, 2], properties={"a": "b"}) + b"  "
    answer = gateway.call("POST", "/v1/clicks?wait=50", body)
    assert (answer.status, answer.json["reason"]) == (202, "timed_out")
    [record] = [
        record
        for record in read_topic(settings.kafka.bootstrap_servers, settings.topics.clicks)
        if record.value == body
    ]
    assert record.key == b"s-1"
    place = f"{settings.topics.clicks}-{record.partition}-{record.offset}"
    assert answer.json["recommendation_id"] == place


@pytest.mark.parametrize(
    "query", ["wait=-1", "wait=x", "wait=5001", "wait=1e3", "wait=99999999999"]
)
def test_a_wait_out_of_bounds_is_refused_before_anything_is_stored(
    gateway: GatewayThread, settings: Settings, query: str
) -> None:
    stored = _stored(settings)
    answer = gateway.call("POST", f"/v1/clicks?{query}", made_click("s", "i"))
    assert (answer.status, answer.kind) == (400, "BadQuery")
    assert _stored(settings) == stored


# -- bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_of_ten_megabytes_is_refused_and_its_sender_hears_it(
    gateway: GatewayThread, settings: Settings, is_chunked: bool
) -> None:
    stored = _stored(settings)
    body = b'{"session_id": "s", "item_id": "' + b"x" * 10_000_000 + b'"}'
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    parts = (body[n : n + 65536] for n in range(0, len(body), 65536)) if is_chunked else body
    connection.request(
        "POST", "/v1/clicks", parts, {"content-type": JSON}, encode_chunked=is_chunked
    )
    response = connection.getresponse()
    assert response.status == 413
    assert json.load(response)["error"]["kind"] == "BodyTooLarge"
    connection.close()
    assert _stored(settings) == stored
    assert gateway.click("s", "i").status == 202, "others are served as before"


def test_who_asks_before_sending_too_much_is_told_at_once(gateway: GatewayThread) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 60) as connection:
        connection.sendall(
            b"POST /v1/clicks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_drips_is_given_up(impatient: GatewayThread) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        connection.sendall(
            b"POST /v1/clicks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"session_id"'
        )
        answer = connection.recv(4096)
        assert answer.startswith(b"HTTP/1.1 408 ")
        while connection.recv(4096):
            pass  # and the connection is closed


def test_what_is_not_called_json_is_refused_so_that_no_page_can_send_it_unasked(
    gateway: GatewayThread,
) -> None:
    """Browsers ask us first (CORS) for anything but a form's types."""
    answer = gateway.call("POST", "/v1/clicks", made_click("s", "i"), content_type="text/plain")
    assert (answer.status, answer.kind) == (415, "NotJson")


# -- connections -------------------------------------------------------------------------------------


def test_a_thousand_idle_connections_hold_nobody_up(settings: Settings) -> None:
    allow_open_files(3000)  # theirs are ours as well in this test
    with (
        GatewayThread(settings, connections_max=1005, idle_seconds_max=600) as gateway,
        ExitStack() as idle,
    ):

        def connect() -> socket.socket:
            return idle.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 60))

        for _ in range(1000):
            connect()
        for _ in range(5):
            assert gateway.click("s", "i").status == 202
        for _ in range(10):
            connect()
        answer = gateway.click("s", "i")
        assert (answer.status, answer.kind) == (503, "TooManyConnections")
        assert gateway.metric("nextclick_gateway_connections") >= 1010
        assert answer.headers["retry-after"]
        assert gateway.call("GET", "/healthz").status == 200, "whoever watches it is let in"
        idle.close()
        wait_until("others are served again", lambda: gateway.click("s", "i").status == 202)


def test_a_connection_that_asks_for_nothing_is_closed_after_a_while(
    impatient: GatewayThread,
) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        assert connection.recv(1) == b"", "without a word"
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while connection.recv(4096):
            pass  # its answer, and the end


def test_headers_that_drip_or_never_end_are_given_up(impatient: GatewayThread) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        assert connection.recv(1) == b""
    with socket.create_connection(("127.0.0.1", impatient.port), 60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            _send_headers(connection, 2000)


def test_a_connection_is_kept_for_the_next_request(gateway: GatewayThread) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    for _ in range(3):
        connection.request("POST", "/v1/clicks", made_click("s", "i"), {"content-type": JSON})
        response = connection.getresponse()
        assert response.status == 202
        response.read()
        own = connection.sock
    assert connection.sock is own
    connection.close()


def test_a_reader_of_the_live_feed_that_does_not_read_is_cut_off_and_others_are_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(
        server, "TELL_SECONDS", 0.001
    )  # fills a connection in seconds, not in hours
    with GatewayThread(settings) as gateway:
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", gateway.port))
        slow.sendall(b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        quick = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        quick.request("GET", "/v1/live")
        response = quick.getresponse()

        def is_cut_off() -> bool:
            assert response.read1(65536), "the one that reads is still served"
            return gateway.metric("nextclick_gateway_live_clients_cut_off_total") == 1

        wait_until("it is cut off", is_cut_off)
        for _ in range(20):
            assert response.read1(65536)
        wait_until("one is left", lambda: gateway.metric("nextclick_gateway_live_clients") == 1)
        with slow:
            while slow.recv(65536):
                pass  # what was under way, and then the end
        quick.close()


def test_the_live_feed_takes_so_many_readers_and_no_more(settings: Settings) -> None:
    with GatewayThread(settings, live_clients_max=1) as gateway:
        reader = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        reader.request("GET", "/v1/live")
        reader.getresponse()
        answer = gateway.call("GET", "/v1/live")
        assert (answer.status, answer.kind) == (503, "Busy")
        reader.close()
        wait_until(
            "the place is free again", lambda: gateway.metric("nextclick_gateway_live_clients") == 0
        )


# -- who is let in -----------------------------------------------------------------------------------


def test_a_token_opens_what_is_behind_it_and_stands_in_no_log(
    settings: Settings, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    set_up_logging("debug", process="gateway")
    with GatewayThread(settings, token=TOKEN) as gateway:
        closed = ("/v1/items", "/v1/models", "/v1/live", "/v1/sessions/s", "/metrics")
        for path in closed:
            assert gateway.call("GET", path).kind == "TokenMissing"
            for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ä"):
                answer = gateway.call("GET", path, authorization=wrong)
                assert (answer.status, answer.kind) == (401, "TokenWrong")
            for other in (f"Basic {TOKEN}", TOKEN, "Bearer "):
                assert gateway.call("GET", path, authorization=other).kind == "TokenMissing"
            assert gateway.call("GET", f"{path}?token={TOKEN}&access_token={TOKEN}").status == 401
        body = made_click("s", "i")
        assert gateway.call("POST", "/v1/clicks", body).kind == "TokenMissing"
        let_in = gateway.call("POST", "/v1/clicks", body, authorization=f"Bearer {TOKEN}")
        assert let_in.status == 202
        assert gateway.call("GET", "/metrics", authorization=f"bearer {TOKEN}").status == 200
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert gateway.call("GET", path).status == 200
        assert gateway.metric("nextclick_gateway_turned_away_total", reason="token") > 10
    assert TOKEN not in capsys.readouterr().err


def test_a_client_that_asks_too_often_is_told_when_to_come_back(settings: Settings) -> None:
    with GatewayThread(settings, requests_per_second_max=20.0) as gateway:
        answers = [gateway.call("GET", "/v1/items") for _ in range(200)]
        refused = [answer for answer in answers if answer.status != 200]
        assert refused
        assert {(answer.status, answer.kind) for answer in refused} == {(429, "TooManyRequests")}
        assert refused[0].headers["retry-after"] == "1"
        assert gateway.call("GET", "/healthz").status == 200
        wait_until("it may again", lambda: gateway.call("GET", "/v1/items").status == 200)


def test_pages_of_listed_origins_may_call_and_others_may_not_write(gateway: GatewayThread) -> None:
    body, ours, theirs = made_click("s", "i"), "https://shop.example", "https://evil.example"
    asked = gateway.call(
        "OPTIONS",
        "/v1/clicks",
        origin=ours,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type",
    )
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == ours
    answer = gateway.call("POST", "/v1/clicks", body, origin=ours)
    assert answer.status == 202
    assert answer.headers["access-control-allow-origin"] == ours
    foreign = gateway.call("POST", "/v1/clicks", body, origin=theirs)
    assert (foreign.status, foreign.kind) == (403, "ForeignOrigin")
    assert "access-control-allow-origin" not in foreign.headers
    own = gateway.call("POST", "/v1/clicks", body, origin=f"http://127.0.0.1:{gateway.port}")
    assert own.status == 202


def test_on_loopback_it_answers_to_loopbacks_names_only(gateway: GatewayThread) -> None:
    """A page whose name points at 127.0.0.1 could read everything otherwise."""
    for name in ("localhost", "127.0.0.1", "LOCALHOST", "[::1]"):
        assert gateway.call("GET", "/v1/items", host=f"{name}:{gateway.port}").status == 200
    for name in ("rebound.example", "localhost.evil.example", ""):
        assert gateway.call("GET", "/v1/items", host=name).kind == "ForeignHost"


@pytest.mark.parametrize(
    "path", ["/", "/v1/items", "/v1/sessions/nobody", "/nothing", "/healthz", "/openapi.json"]
)
def test_every_answer_carries_what_keeps_a_browser_safe(gateway: GatewayThread, path: str) -> None:
    headers = gateway.call("GET", path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-store" if path.startswith("/v1/") else "no-cache")
    assert "server" not in headers


def test_what_is_not_there_or_not_meant_so_is_told_in_the_same_form(gateway: GatewayThread) -> None:
    assert (gateway.call("GET", "/nothing").status, gateway.call("GET", "/nothing").kind) == (
        404,
        "NotFound",
    )
    assert gateway.call("GET", "/../../settings.py").kind == "NotFound"
    assert gateway.call("GET", "/v1/clicks").kind == "MethodNotAllowed"
    assert gateway.call("GET", "/v1/items?limit=0").kind == "BadQuery"
    assert gateway.call("GET", "/v1/sessions/s?changelog=maybe").kind == "BadQuery"
    assert gateway.call("GET", "/v1/models/live/map").kind == "NoModel"


def test_a_port_that_is_taken_is_a_wrong_setting(
    gateway: GatewayThread, settings: Settings
) -> None:
    second = GatewayThread(settings)
    second.settings = gateway.settings
    with pytest.raises(ConfigurationError, match=r"gateway\.port"):
        second.run_here()


def test_many_callers_at_once_are_counted_one_by_one(gateway: GatewayThread) -> None:
    before = gateway.metric("nextclick_gateway_clicks_total", outcome="stored")

    async def all_of_them() -> list[int]:
        connector = aiohttp.TCPConnector(limit=100)
        headers = {"content-type": JSON}
        patience = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=patience
        ) as session:

            async def one(number: int) -> int:
                url = f"http://127.0.0.1:{gateway.port}/v1/clicks"
                async with session.post(url, data=made_click(f"s{number}", "i")) as response:
                    told: dict[str, Any] = await response.json()
                    assert "recommendation_id" in told, told
                    return response.status

            statuses = await asyncio.gather(*map(one, range(300)))
        await asyncio.sleep(0.1)  # the session's sockets are closed a turn of the loop later
        return list(statuses)

    assert asyncio.run(all_of_them()) == [202] * 300
    assert gateway.metric("nextclick_gateway_clicks_total", outcome="stored") == before + 300
