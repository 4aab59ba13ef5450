"""*Flow*: whether every click becomes an answer, how soon, and what that costs."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.frame import Row, alerts_firing, dashboard
from deploy.grafana.panels import (
    BYTES,
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
from deploy.grafana.queries import grown, mean, quantile, rate, series, total

CLICKS: Final = "nextclick_clicks_total"
LAG: Final = "nextclick_consumer_lag_clicks"
LATENCY: Final = "nextclick_click_to_recommendation_seconds"
STAGES: Final = "nextclick_stage_duration_seconds"
BATCH: Final = "nextclick_batch_clicks"

LAG_GROWING: Final = "NextclickLagGrowing"
LATENCY_HIGH: Final = "NextclickLatencyHigh"
DEAD_LETTERS: Final = "NextclickDeadLetters"


def flow() -> Dashboard:
    return dashboard(
        "Flow",
        "Whether every click becomes an answer, how soon, and what that costs.",
        [
            Row("Now", _now()),
            Row("Clicks", _clicks()),
            Row("Time", _time()),
            Row("Work", _work()),
        ],
    )


def _now() -> list[Panel]:
    return [
        alerts_firing(),
        number(
            "Clicks",
            total(rate(CLICKS)),
            unit=PER_SECOND,
            decimals=1,
            width=3,
            meaning="Clicks done a second, whatever became of them. Falling while the lag grows: the workers are at "
            "their limit, add one; falling without: fewer clicks come in, look at the producers.",
        ),
        number(
            "Lag",
            total(series(LAG)),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1_000, bad=100_000),
            alert=LAG_GROWING,
            width=3,
            meaning="Clicks on the topic that are not done yet. Growing for minutes: add workers, up to one for each "
            "partition; after an outage it must fall, and the rest of Flow says what holds it up.",
        ),
        number(
            "Latency, p99",
            quantile(0.99, LATENCY),
            unit=SECONDS,
            limits=Limits(warn=0.25, bad=1),
            alert=LATENCY_HIGH,
            width=3,
            meaning="p99 from the click's Kafka timestamp to its answer. High with a lag: add workers. High without: "
            "the panel Stages says which part takes it.",
        ),
        number(
            "Workers ready",
            total(series("nextclick_ready")),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=0),
            alert="NextclickWorkerDown",
            width=3,
            meaning="Workers that own partitions and answer. Fewer than you run: /readyz of the others says why; they "
            "may be restoring sessions (State), or be more than there are partitions.",
        ),
        number(
            "Dead letters",
            total(grown(CLICKS, 'outcome="dead_lettered"')),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=100),
            alert=DEAD_LETTERS,
            width=3,
            meaning="Clicks that could not be used, in the window. Any: `nextclick dead-letters list` shows them with "
            "the reason; mend the producer, then `nextclick dead-letters requeue`.",
        ),
        number(
            "Clicks lost",
            total(grown("nextclick_lost_clicks_total")),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=1),
            alert="NextclickClicksLost",
            width=3,
            meaning="Clicks that Kafka deleted before a worker read them, in the window. Any: give the click topic a "
            "longer retention than your longest outage.",
        ),
        number(
            "Partitions served",
            f"count({series(LAG)})",
            unit=COUNT,
            decimals=0,
            width=3,
            meaning="Partitions of the click topic that some worker owns. Fewer than the topic has: their clicks wait; "
            "a rebalance is on its way, or a worker hangs.",
        ),
    ]


def _clicks() -> list[Panel]:
    return [
        chart(
            "Clicks by outcome",
            [Line(total(rate(CLICKS), "outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            stacked=True,
            alert=DEAD_LETTERS,
            meaning="What became of the clicks; they sum to what came in. dead_lettered rising: a producer changed its "
            "format. ignored_redelivered: a worker came back and met clicks again, no fault. ignored_too_fast: bots.",
        ),
        chart(
            "Lag by partition",
            [Line(total(series(LAG), "partition"), "partition {{partition}}")],
            unit=COUNT,
            alert=LAG_GROWING,
            meaning="Clicks not done yet, by partition. All growing: add workers. One growing: one session (a bot) "
            "fills it, or its worker hangs; see which instance owns it and look at its log.",
        ),
        chart(
            "Dead letters by error",
            [Line(total(series("nextclick_dead_letters_total"), "error"), "{{error}}")],
            unit=COUNT,
            alert=DEAD_LETTERS,
            meaning="Clicks that could not be used since the workers started, by error. A step: `nextclick "
            "dead-letters list`. Many in a row halt the workers on purpose: then the decoder settings are wrong, not "
            "the clicks.",
        ),
        chart(
            "Waiting in the workers",
            [Line(total(series("nextclick_waiting_clicks"), "instance"), "{{instance}}")],
            unit=COUNT,
            meaning="Clicks fetched and not taken yet. Constantly at some thousands: this worker cannot keep up; "
            "add workers, or look at Stages for what slows it down.",
        ),
    ]


def _time() -> list[Panel]:
    return [
        chart(
            "From click to answer",
            [
                Line(quantile(0.5, LATENCY), "p50"),
                Line(quantile(0.9, LATENCY), "p90"),
                Line(quantile(0.99, LATENCY), "p99"),
            ],
            unit=SECONDS,
            logarithmic_from=0.001,
            alert=LATENCY_HIGH,
            meaning="From the click's Kafka timestamp to its answer, on a logarithmic scale; as exact as the buckets, "
            "a factor of 1.5. p99 alone rising: pauses (swap, rebalance, disk). All rising with the lag: add workers.",
        ),
        chart(
            "Stages of a batch, p99",
            [Line(quantile(0.99, STAGES, "stage"), "{{stage}}")],
            unit=SECONDS,
            logarithmic_from=0.001,
            alert=LATENCY_HIGH,
            meaning="How long the slowest batch in a hundred takes in each stage. compute: the model, or too little "
            "CPU; deliver and settle: the broker's acknowledgements; write: the disk under data_dir.",
        ),
        chart(
            "Where the time goes",
            [Line(total(rate(f"{STAGES}_sum"), "stage"), "{{stage}}")],
            unit=SHARE,
            meaning="Share of each second that a stage is busy, over all chosen workers. The stages overlap; compute "
            "near 100 % for each worker is its limit: add workers, or shrink the catalogue or the layer.",
        ),
        chart(
            "Clicks in a batch",
            [
                Line(quantile(0.99, BATCH), "p99"),
                Line(mean(BATCH), "mean"),
            ],
            unit=COUNT,
            meaning="How many clicks are scored together; more at once cost less each. Constantly at "
            "serving.batch_clicks_max (512): the worker cannot keep up.",
        ),
    ]


def _work() -> list[Panel]:
    return [
        chart(
            "Processor",
            [
                Line(
                    total(rate("process_cpu_seconds_total"), "job", "instance"),
                    "{{job}} {{instance}}",
                )
            ],
            unit=SHARE,
            meaning="Cores in use by each process, 100 % is one. A worker is one process on one core: near 100 % it is "
            "at its limit, add another. Retraining uses retrain.threads.",
        ),
        chart(
            "Memory",
            [
                Line(
                    total(series("process_resident_memory_bytes"), "job", "instance"),
                    "{{job}} {{instance}}",
                )
            ],
            unit=BYTES,
            meaning="Resident memory of each process. A worker moves with RocksDB's memtables by 64 MB up and down "
            "(State); growing steadily for hours: restart it and tell us, with this picture.",
        ),
    ]
