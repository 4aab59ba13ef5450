"""*State*: the sessions, the disk they lie on, and the changelog they are restored from."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.frame import Row, alerts_firing, dashboard
from deploy.grafana.panels import (
    BYTES,
    BYTES_PER_SECOND,
    COUNT,
    PER_SECOND,
    SECONDS,
    SHARE,
    YES_NO,
    Limits,
    Line,
    Panel,
    chart,
    number,
)
from deploy.grafana.queries import grown, largest, rate, series, share, total

STORED: Final = "nextclick_stored_sessions"
RECORDS: Final = "nextclick_changelog_records_total"
HEALED: Final = "nextclick_healed_changelog_records_total"
REFUSED: Final = "nextclick_refused_changelog_records_total"
UNREADABLE: Final = "nextclick_unreadable_session_records_total"

FOREIGN_WRITE: Final = "NextclickForeignWrite"
RESTORE_STUCK: Final = "NextclickRestoreStuck"
DISK_FILLING: Final = "NextclickDiskFilling"


def state() -> Dashboard:
    return dashboard(
        "State",
        "The sessions, the disk they lie on, and the changelog they are restored from.",
        [
            Row("Now", _now()),
            Row("Sessions", _sessions()),
            Row("Disk and memory", _room()),
            Row("Changelog", _changelog()),
        ],
    )


def _now() -> list[Panel]:
    free = largest(share(series("nextclick_disk_free_bytes"), series("nextclick_disk_size_bytes")))
    return [
        alerts_firing(),
        number(
            "Sessions",
            total(series(STORED)),
            unit=COUNT,
            width=3,
            meaning="Sessions stored by all chosen workers. Growing while the clicks do not: lower "
            "serving.state_ttl_hours, or look for visitors that never come twice (bots).",
        ),
        number(
            "On disk",
            total(series("nextclick_store_disk_bytes")),
            unit=BYTES,
            decimals=1,
            width=3,
            meaning="RocksDB's files of all chosen workers. It grows by what is written and falls when RocksDB "
            "compacts; growing for days while the sessions do not: look at the panel Sessions that leave.",
        ),
        number(
            "Least free disk",
            free.replace("max(", "min(", 1),
            unit=SHARE,
            decimals=0,
            limits=Limits(warn=0.2, bad=0.1),
            alert=DISK_FILLING,
            width=3,
            meaning="Room on the fullest of the disks that a process writes to. Falling towards 0: enlarge the disk; a "
            "full one ends the process, and nothing is lost.",
        ),
        number(
            "Restoring",
            largest(series("nextclick_restore_running")),
            unit=YES_NO,
            limits=Limits(warn=1, bad=2),
            alert=RESTORE_STUCK,
            width=3,
            words={"0": "no", "1": "yes"},
            meaning="Whether a worker reads sessions back, and their clicks wait. Yes for minutes: look at the broker "
            "and at the disk under data_dir; the worker's log says how far it is.",
        ),
        number(
            "Last restore took",
            largest(series("nextclick_restore_duration_seconds")),
            unit=SECONDS,
            limits=Limits(warn=30, bad=300),
            width=3,
            meaning="The longest of the workers' last restores. Long: keep data_dir across restarts (a named volume), "
            "or set serving.standby_copies to 1.",
        ),
        number(
            "Rebalances",
            total(grown("nextclick_rebalances_total")),
            unit=COUNT,
            decimals=0,
            width=3,
            meaning="Times workers were given partitions, in the window. Some at a deployment; again and again: a "
            "worker crashes or is silent for kafka.session_timeout_seconds, its log says why.",
        ),
        number(
            "Foreign records",
            total(grown(HEALED)),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=100),
            alert=FOREIGN_WRITE,
            width=3,
            meaning="Records of others in the sessions topic that were mended, in the window. A few after a worker was "
            "frozen are normal. Going on: something else writes there; find and stop it.",
        ),
    ]


def _sessions() -> list[Panel]:
    return [
        chart(
            "Sessions stored",
            [Line(total(series(STORED), "instance"), "{{instance}}")],
            unit=COUNT,
            stacked=True,
            meaning="By worker; they add up. It counts up after a start, while the worker looks through its store. "
            "One worker far above the others: it owns more partitions, or its keys are unevenly spread.",
        ),
        chart(
            "Sessions that leave, and are made anew",
            [
                Line(total(rate("nextclick_expired_sessions_total")), "expired"),
                Line(total(rate("nextclick_rebuilt_sessions_total")), "rebuilt for another model"),
            ],
            unit=PER_SECOND,
            meaning="expired: idle for longer than serving.state_ttl_hours. rebuilt: met after a swap, and replayed "
            "through the new model; a wave after each swap, anything else means that workers disagree on the model.",
        ),
        chart(
            "Rebalances and restored sessions",
            [
                Line(
                    total(grown("nextclick_rebalances_total", over="$__rate_interval")),
                    "rebalances",
                ),
                Line(
                    total(grown("nextclick_restored_sessions_total", over="$__rate_interval")),
                    "sessions read back",
                    on_the_right=True,
                ),
            ],
            unit=COUNT,
            bars=True,
            alert=RESTORE_STUCK,
            meaning="Partitions given to workers, and the sessions read back for them. Bars at deployments only; at "
            "other times look for workers that crash, or are silent for kafka.session_timeout_seconds.",
        ),
        chart(
            "How long restores took",
            [
                Line(
                    largest(series("nextclick_restore_duration_seconds"), "instance"),
                    "{{instance}}",
                )
            ],
            unit=SECONDS,
            alert=RESTORE_STUCK,
            meaning="Each worker's last restore; its clicks waited so long. Rising with the sessions: keep data_dir "
            "across restarts, or set serving.standby_copies to 1.",
        ),
    ]


def _room() -> list[Panel]:
    return [
        chart(
            "Store on disk",
            [Line(total(series("nextclick_store_disk_bytes"), "instance"), "{{instance}}")],
            unit=BYTES,
            alert=DISK_FILLING,
            meaning="RocksDB's files by worker, its log included. A saw-tooth is RocksDB compacting. Growing for days "
            "while sessions do not: sessions do not expire (serving.state_ttl_hours).",
        ),
        chart(
            "Store in memory",
            [Line(total(series("nextclick_store_memory_bytes"), "part"), "{{part}}")],
            unit=BYTES,
            stacked=True,
            meaning="What RocksDB holds, over all chosen workers: memtables up to two of 64 MB each, block_cache 64 MB, "
            "each times the workers. A process that grows while this does not: the leak is elsewhere.",
        ),
        chart(
            "Room on the disks",
            [
                Line(
                    share(series("nextclick_disk_free_bytes"), series("nextclick_disk_size_bytes")),
                    "{{directory}} of {{job}} {{instance}}",
                )
            ],
            unit=SHARE,
            ceiling=1,
            alert=DISK_FILLING,
            meaning="Free share of the disk under each directory that a process writes to. Falling steadily: enlarge "
            "it, lower the click log's retention or the number of kept models.",
        ),
        chart(
            "Damaged, refused, unreadable",
            [
                Line(total(grown(HEALED, over="$__rate_interval")), "foreign, mended"),
                Line(
                    total(grown(REFUSED, over="$__rate_interval"), "reason"), "refused: {{reason}}"
                ),
                Line(total(grown(UNREADABLE, over="$__rate_interval")), "unreadable when clicked"),
                Line(total(series("nextclick_quarantined_stores_total")), "stores put aside"),
            ],
            unit=COUNT,
            bars=True,
            alert=FOREIGN_WRITE,
            meaning="All 0 on a good day. foreign and refused: something else writes to the sessions topic, find and "
            "stop it. unreadable: written by a newer nextclick. stores put aside: the disk is failing, replace it.",
        ),
    ]


def _changelog() -> list[Panel]:
    return [
        chart(
            "Changelog records",
            [
                Line(total(rate(RECORDS)), "records written"),
                Line(total(rate("nextclick_clicks_total")), "clicks", dashed=True),
            ],
            unit=PER_SECOND,
            meaning="Session records sent to the changelog; fewer than clicks, since states of batches are written "
            "together. Above the clicks for long: records are sent again, see Damaged, refused, unreadable.",
        ),
        chart(
            "Changelog bytes",
            [Line(total(rate("nextclick_changelog_bytes_total"), "instance"), "{{instance}}")],
            unit=BYTES_PER_SECOND,
            stacked=True,
            meaning="What is sent to the sessions topic, before compression. Rising with the clicks is right; plan the "
            "broker's disk by it until compaction.",
        ),
        chart(
            "Size of a record",
            [
                Line(
                    share(total(rate("nextclick_changelog_bytes_total")), total(rate(RECORDS))),
                    "key and record",
                ),
                Line(
                    largest(series("nextclick_model_state_bytes")),
                    "of it the model's state",
                    dashed=True,
                ),
            ],
            unit=BYTES,
            meaning="Bytes of a session in the changelog, key included; some 500 at 100 units, of which the state is 200. "
            "Much more: the model's state grew (retrain.layer_units), or session and item ids are very long.",
        ),
        chart(
            "Standby copies",
            [
                Line(
                    total(series("nextclick_standby_lag_records"), "instance"),
                    "{{instance}} lacks",
                )
            ],
            unit=COUNT,
            meaning="Changelog records that a worker's copies of others' sessions lack; empty without "
            "serving.standby_copies. Growing: the worker has too much to do, and a fail-over would read so much first.",
        ),
    ]
