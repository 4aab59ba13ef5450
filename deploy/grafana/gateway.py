"""*Gateway*: what callers over HTTP ask for, get, and are refused; empty where no gateway runs."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.frame import Row, alerts_firing, dashboard
from deploy.grafana.panels import (
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    Limits,
    Line,
    Panel,
    chart,
    number,
)
from deploy.grafana.queries import grown, quantile, rate, series, share, total

REQUESTS: Final = "nextclick_gateway_requests_total"
DURATION: Final = "nextclick_gateway_request_duration_seconds"
CLICKS: Final = "nextclick_gateway_clicks_total"
STORING: Final = "nextclick_gateway_store_seconds"
WAITS: Final = "nextclick_gateway_waits_total"
WAITING: Final = "nextclick_gateway_wait_seconds"
TURNED_AWAY: Final = "nextclick_gateway_turned_away_total"

CLICK_ROUTE: Final = 'route="/v1/clicks"'
BUT_THE_LIVE_FEED: Final = 'route!="/v1/live"'
"""A reader of the feed stays for minutes: that is no slow request."""

SERVICE_DOWN: Final = "NextclickServiceDown"


def gateway() -> Dashboard:
    return dashboard(
        "Gateway",
        "What callers over HTTP ask for, get, and are refused. Empty where `nextclick gateway` does not run.",
        [
            Row("Now", _now()),
            Row("Clicks", _clicks()),
            Row("Requests", _requests()),
            Row("Connections", _connections()),
        ],
    )


def _now() -> list[Panel]:
    failed = total(grown(REQUESTS, 'status=~"5.."'))
    return [
        alerts_firing(),
        number(
            "Requests",
            total(rate(REQUESTS)),
            unit=PER_SECOND,
            decimals=1,
            width=3,
            meaning="Requests a second, of all routes. Falling to 0 while the shop is open: look at what is in front of "
            "the gateway (proxy, DNS, certificate).",
        ),
        number(
            "Failed requests",
            share(f"({failed} or vector(0))", total(grown(REQUESTS))),
            unit=SHARE,
            decimals=2,
            limits=Limits(warn=0.001, bad=0.01),
            width=3,
            meaning="Share of requests answered with 5xx, over the window. Rising: Requests by status says which; 503 is "
            "Kafka away or too many connections, 500 is a fault of nextclick, with a traceback in the log.",
        ),
        number(
            "Click, p99",
            quantile(0.99, DURATION, labels=CLICK_ROUTE),
            unit=SECONDS,
            limits=Limits(warn=0.5, bad=2),
            width=3,
            meaning="p99 of POST /v1/clicks, waiting for the answer included. High: Storing and answering says whether "
            "Kafka or the workers take the time.",
        ),
        number(
            "Answered in time",
            share(
                total(grown(WAITS, 'result="answered"')),
                total(grown(WAITS, 'result=~"answered|timed_out"')),
            ),
            unit=SHARE,
            decimals=1,
            limits=Limits(warn=0.99, bad=0.95),
            width=3,
            meaning="Of the callers that waited for an answer there was to be, those that got it, over the window. "
            "Falling: the workers are behind or away, look at Flow; or callers wait for less than the latency.",
        ),
        number(
            "Turned away",
            total(grown(TURNED_AWAY)),
            unit=COUNT,
            decimals=0,
            width=3,
            meaning="Requests that were not let in, in the window. A few are scanners and old pages; many: Turned away "
            "by reason says whose setting it is.",
        ),
        number(
            "Behind",
            total(series("nextclick_gateway_behind_records")),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1_000, bad=10_000),
            width=3,
            meaning="Records on clicks, recommendations and dead letters that the gateways have not read. Growing: they "
            "cannot keep up with the stream and waits time out; give each a core.",
        ),
        number(
            "Gateways ready",
            total(series("nextclick_gateway_ready")),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=0),
            alert=SERVICE_DOWN,
            width=3,
            meaning="Gateways whose /readyz says yes. Fewer than you run: Kafka does not answer the others, or they are "
            "down; their logs say which.",
        ),
    ]


def _clicks() -> list[Panel]:
    return [
        chart(
            "Clicks by outcome",
            [Line(total(rate(CLICKS), "outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            stacked=True,
            meaning="stored: Kafka has it. refused: not usable, and the caller was told why; rising: a caller changed "
            "its format. not_stored: Kafka did not confirm in time; any: look at the broker.",
        ),
        chart(
            "Storing and answering",
            [
                Line(quantile(0.5, STORING), "stored, p50"),
                Line(quantile(0.99, STORING), "stored, p99"),
                Line(quantile(0.5, WAITING), "then answered, p50"),
                Line(quantile(0.99, WAITING), "then answered, p99"),
            ],
            unit=SECONDS,
            logarithmic_from=0.001,
            meaning="From a click to Kafka's confirmation, and from there to its answer, where it came. stored rising: "
            "the broker is slow. then answered rising: the workers are, see Stages of a batch under Flow.",
        ),
        chart(
            "Waits by result",
            [Line(total(rate(WAITS), "result"), "{{result}}")],
            unit=PER_SECOND,
            stacked=True,
            meaning="Callers that waited (?wait=). timed_out rising: the workers are behind or away, look at Flow. "
            "not_answered: events that get no answer (carts, purchases); their callers need not wait.",
        ),
        chart(
            "Behind the stream",
            [
                Line(
                    total(series("nextclick_gateway_behind_records"), "instance"),
                    "{{instance}}",
                )
            ],
            unit=COUNT,
            meaning="Records that a gateway has not read yet; each reads the whole stream. Growing for minutes: it "
            "lacks a core; another gateway takes callers from it, but reads as much.",
        ),
    ]


def _requests() -> list[Panel]:
    return [
        chart(
            "Requests by route",
            [Line(total(rate(REQUESTS), "route"), "{{route}}")],
            unit=PER_SECOND,
            stacked=True,
            meaning="Requests a second by route. other is what the gateway does not have; much of it: a scanner, or a "
            "caller with an old address.",
        ),
        chart(
            "Requests by status",
            [Line(total(rate(REQUESTS), "status"), "{{status}}")],
            unit=PER_SECOND,
            stacked=True,
            meaning="200 with an answer, 202 stored without one. 4xx rising: a caller is wrong, Turned away by reason "
            "and Clicks by outcome say how. 5xx: Kafka, too many connections, or the log.",
        ),
        chart(
            "How long requests take, p99",
            [
                Line(
                    quantile(0.99, DURATION, "route", labels=BUT_THE_LIVE_FEED),
                    "{{route}}",
                )
            ],
            unit=SECONDS,
            logarithmic_from=0.001,
            meaning="By route, without the live feed, whose readers stay. Clicks include what the caller waits for its "
            "answer; all routes rising together: the gateway lacks a core.",
        ),
        chart(
            "Turned away by reason",
            [Line(total(grown(TURNED_AWAY, over="$__rate_interval"), "reason"), "{{reason}}")],
            unit=COUNT,
            bars=True,
            stacked=True,
            meaning="token: a caller lacks it. host, origin: see gateway.hosts, gateway.cors_origins. rate: "
            "gateway.requests_per_second_max. body: too large a click. connections: raise gateway.connections_max.",
        ),
    ]


def _connections() -> list[Panel]:
    return [
        chart(
            "Open connections",
            [Line(total(series("nextclick_gateway_connections"), "instance"), "{{instance}}")],
            unit=COUNT,
            meaning="By gateway. Near gateway.connections_max (2,000), new ones get 503: raise it, run another gateway, "
            "or put a proxy in front.",
        ),
        chart(
            "Readers of the live feed",
            [
                Line(total(series("nextclick_gateway_live_clients")), "reading"),
                Line(
                    total(
                        grown(
                            "nextclick_gateway_live_clients_cut_off_total", over="$__rate_interval"
                        )
                    ),
                    "cut off, too slow",
                ),
            ],
            unit=COUNT,
            meaning="At most gateway.live_clients_max (100) for each gateway. A few cut off are normal; many: the "
            "network to them, or a proxy that buffers the feed.",
        ),
    ]
