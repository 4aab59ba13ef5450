"""A broker that is away for a while: what each caller of the gateway gets, and that nothing accepted is lost."""

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stream_app.adapters import kafka_topics
from stream_app.adapters.local_kafka import LocalKafka
from stream_app.settings import GatewaySettings, KafkaSettings, Settings, TopicSettings
from tests.integration.gateways import Answer, call, free_port, made_click
from tests.integration.oracle import read_topic
from tests.integration.processes import NextclickProcess, get, wait_until

OUTAGE_SECONDS = float(os.environ.get("GATEWAY_OUTAGE_SECONDS", "0"))
"""At least; it always lasts until callers were turned away."""
STORE_MS = int(os.environ.get("GATEWAY_STORE_MS", "1000"))
CALLERS = 8


class Callers:
    """Click on and on, each in a session of his own, and again with the same event id where it failed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.accepted: dict[str, str] = {}
        """Recommendation id by event id."""
        self.statuses: Counter[tuple[int, str]] = Counter()
        self.seconds_max = 0.0
        self._threads = [
            threading.Thread(target=self._click_on, args=(number,)) for number in range(CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _click_on(self, caller: int) -> None:
        number = 0
        while not self._over.is_set():
            event_id = f"{caller}:{number}"
            began = time.monotonic()
            answer = self._send(f"caller-{caller}", event_id)
            self.seconds_max = max(self.seconds_max, time.monotonic() - began)
            kind = answer.kind if answer.status >= 400 else ""
            self.statuses[answer.status, kind] += 1
            if answer.status == 202:
                self.accepted[event_id] = answer.json["recommendation_id"]
                number += 1
            time.sleep(0.02)

    def _send(self, session_id: str, event_id: str) -> Answer:
        body = made_click(session_id, "item", event_id=event_id)
        return call(self._port, "POST", "/v1/clicks", body)


def test_callers_of_an_outage_are_told_and_what_was_accepted_is_stored_where_it_was_said_to_be(
    kafka: Any, tmp_path: Path
) -> None:
    with LocalKafka(tmp_path / "kafka") as broker:
        port = free_port()
        settings = Settings(
            kafka=KafkaSettings(bootstrap_servers=broker.bootstrap_servers),
            topics=TopicSettings(partitions=2),
            registry=str(tmp_path / "registry"),
            gateway=GatewaySettings(port=port, store_ms_max=STORE_MS),
        )
        kafka_topics.create_topics(settings.kafka, settings.topics)
        with NextclickProcess("gateway", settings, tmp_path) as gateway:
            wait_until("it is ready", lambda: get(port, "/readyz")[0] == 200)
            callers = Callers(port)
            try:
                wait_until("clicks are accepted", lambda: len(callers.accepted) > 50)
                broker.stop()
                away = time.monotonic()
                wait_until(
                    "callers are turned away", lambda: callers.statuses[503, "NotStored"] > CALLERS
                )
                wait_until("it is not ready", lambda: get(port, "/readyz")[0] == 503)
                assert get(port, "/healthz")[0] == 200, "a restart would help nobody"
                time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - away)))
                accepted = len(callers.accepted)
                broker.start()
                wait_until(
                    "clicks are accepted again", lambda: len(callers.accepted) > accepted + 50
                )
                wait_until("it is ready again", lambda: get(port, "/readyz")[0] == 200)
            finally:
                callers.end()
            print(f"{dict(callers.statuses)}, at most {callers.seconds_max:.1f} s")
            assert gateway.terminate() == 0, gateway.log
        assert set(callers.statuses) <= {(202, ""), (503, "NotStored")}
        stored = {
            f"{record.topic}-{record.partition}-{record.offset}": record.value
            for record in read_topic(broker.bootstrap_servers, settings.topics.clicks)
        }
        for event_id, place in callers.accepted.items():
            assert f'"{event_id}"'.encode() in stored[place]
