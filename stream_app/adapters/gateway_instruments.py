"""The gateway's metrics."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS_BUCKETS: Final = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


OUTCOMES: Final = ("stored", "refused", "not_stored")
RESULTS: Final = ("answered", "timed_out", "not_answered")
REASONS: Final = ("token", "host", "origin", "rate", "body", "connections")


class GatewayInstruments:
    """Labels are few and closed: routes are those of the OpenAPI document, never a path somebody made up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "nextclick_gateway_requests",
            "Requests by route and status. 5xx rising: look at Kafka and at the log; 4xx: a caller is wrong.",
            ["route", "status"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "nextclick_gateway_request_duration_seconds",
            "From a request's headers to the end of its answer, waiting included. Rising on /v1/clicks: compare "
            "with store and wait, which say whether Kafka or the worker is slow.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.clicks = Counter(
            "nextclick_gateway_clicks",
            "Clicks by outcome: stored, refused (not usable, the caller was told why), not_stored (Kafka did not "
            "confirm in time). not_stored rising: Kafka is away or slow.",
            ["outcome"],
            registry=registry,
        )
        self.store_duration = Histogram(
            "nextclick_gateway_store_seconds",
            "From a click to Kafka's confirmation by all replicas. Rising: the broker is slow.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.waits = Counter(
            "nextclick_gateway_waits",
            "Callers that waited for their answer, by result: answered, timed_out, not_answered (events that get "
            "none). timed_out rising: the workers are behind or away.",
            ["result"],
            registry=registry,
        )
        self.wait_duration = Histogram(
            "nextclick_gateway_wait_seconds",
            "From Kafka's confirmation of a click to its answer, where it came. Rising: see the worker's stages.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.turned_away = Counter(
            "nextclick_gateway_turned_away",
            "Requests that were not let in, by reason: token, host, origin, rate, body, connections. rate: a client asks "
            "for more than gateway.requests_per_second_max; connections: raise gateway.connections_max.",
            ["reason"],
            registry=registry,
        )
        self.connections = Gauge(
            "nextclick_gateway_connections",
            "Open connections. Near gateway.connections_max: raise it, or put a proxy in front.",
            registry=registry,
        )
        self.live_clients = Gauge(
            "nextclick_gateway_live_clients", "Readers of the live feed.", registry=registry
        )
        self.live_cut_off = Counter(
            "nextclick_gateway_live_clients_cut_off",
            "Readers of the live feed that were too slow. A few are normal; many: the network to them is.",
            registry=registry,
        )
        self.behind = Gauge(
            "nextclick_gateway_behind_records",
            "Records on clicks, recommendations and dead letters that the gateway has not read. Growing: it cannot "
            "keep up with the stream, and waits time out; run another one, or give it a core.",
            registry=registry,
        )
        self.is_ready = Gauge(
            "nextclick_gateway_ready",
            "1 while /readyz says so. 0: Kafka does not answer the gateway.",
            registry=registry,
        )
        for counter, values in (
            (self.clicks, OUTCOMES),
            (self.waits, RESULTS),
            (self.turned_away, REASONS),
        ):
            for value in values:  # from 0 on: the first of a kind would be no growth otherwise
                counter.labels(value)
