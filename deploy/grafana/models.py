"""*Models*: what is live, how it was made and judged, and whether the next one can be made."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.frame import Row, alerts_firing, dashboard
from deploy.grafana.panels import (
    BYTES,
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
from deploy.grafana.queries import grown, largest, quantile, rate, series, share, total

AGE: Final = "nextclick_model_age_seconds"
SWAPS: Final = "nextclick_model_swaps_total"
RUNS: Final = "nextclick_retrain_runs_total"
STEPS: Final = "nextclick_retrain_step_duration_seconds"
INTERVAL: Final = "nextclick_retrain_interval_seconds"

MODEL_STALE: Final = "NextclickModelStale"
BUNDLE_REFUSED: Final = "NextclickBundleRefused"
RETRAINING_FAILING: Final = "NextclickRetrainingFailing"
ARCHIVE_BEHIND: Final = "NextclickArchiveBehind"
STATISTICS_STALE: Final = "NextclickStatisticsStale"


def models() -> Dashboard:
    return dashboard(
        "Models",
        "What is live, how it was made and judged, and whether the next one can be made.",
        [
            Row("Now", _now()),
            Row("Live", _live()),
            Row("Retraining", _retraining()),
            Row("Refresh", _refresh()),
            Row("What is learned from", _sources()),
        ],
    )


def _now() -> list[Panel]:
    return [
        alerts_firing(),
        number(
            "Age of the model",
            largest(series(AGE)),
            unit=SECONDS,
            alert=MODEL_STALE,
            width=3,
            meaning="Since the live model was made; 0 without one. Above twice the retraining interval: look at Runs "
            "by result, then at the report of the last one.",
        ),
        number(
            "Age in intervals",
            share(largest(series(AGE)), largest(series(INTERVAL))),
            unit=COUNT,
            decimals=1,
            limits=Limits(warn=2, bad=3),
            alert=MODEL_STALE,
            width=3,
            meaning="The same age by how often retraining runs (--every). Above 2: runs are refused, fail or take "
            "longer than the interval; Runs by result and Steps say which.",
        ),
        number(
            "Release refused",
            largest(series("nextclick_release_refused")),
            unit=YES_NO,
            limits=Limits(warn=1, bad=1),
            alert=BUNDLE_REFUSED,
            width=3,
            words={"0": "no", "1": "yes"},
            meaning="Whether the promoted model failed a check and another one answers. Yes: the worker's log names the "
            "check; publish it again, or promote another with `nextclick models promote`.",
        ),
        number(
            "Failures in a row",
            largest(series("nextclick_retrain_failures_in_a_row")),
            unit=COUNT,
            decimals=0,
            limits=Limits(warn=1, bad=2),
            alert=RETRAINING_FAILING,
            width=3,
            meaning="Failed retrainings since one ended well. 2 or more: the next will hardly do better; read the log "
            "of `nextclick retrain`. A refused candidate is no failure.",
        ),
        number(
            "Training now",
            largest(series("nextclick_retrain_running")),
            unit=YES_NO,
            width=3,
            words={"0": "no", "1": "yes"},
            meaning="Whether a run is on. Yes for hours: it hangs; restart it, nothing is lost.",
        ),
        number(
            "Items",
            largest(series("nextclick_model_items")),
            unit=COUNT,
            width=3,
            meaning="The live model's catalogue. Falling from one model to the next: the training window lost part of "
            "the click log; look at the archive, and at retrain.window_days.",
        ),
        number(
            "Bundle",
            largest(series("nextclick_model_bundle_bytes")),
            unit=BYTES,
            decimals=1,
            width=3,
            meaning="Size of the live model's files. Each swap reads so much from the registry, on each worker; it "
            "grows with the catalogue.",
        ),
    ]


def _live() -> list[Panel]:
    return [
        chart(
            "Age of the live model",
            [
                Line(largest(series(AGE), "instance"), "{{instance}}"),
                Line(
                    f"2 * {largest(series(INTERVAL))}", "twice the retraining interval", dashed=True
                ),
            ],
            unit=SECONDS,
            alert=MODEL_STALE,
            meaning="A saw-tooth: it falls at each swap. Above the dashed line: retraining does not deliver. Workers "
            "apart for more than seconds: one did not take the release, its log says why.",
        ),
        chart(
            "Swaps",
            [Line(total(grown(SWAPS, over="$__rate_interval"), "result"), "{{result}}")],
            unit=COUNT,
            bars=True,
            alert=BUNDLE_REFUSED,
            meaning="Releases as the workers took them: live, refused (a check failed, the live model stays), "
            "unavailable (the registry could not be read). Each worker counts its own.",
        ),
        chart(
            "Size of the bundle",
            [Line(largest(series("nextclick_model_bundle_bytes"), "instance"), "{{instance}}")],
            unit=BYTES,
            meaning="The live model's files, as each worker has them. It grows with the catalogue; a jump means other "
            "layer_units or another scoring. Too large for a quick swap: shorten retrain.window_days.",
        ),
        chart(
            "Items known and items clicked",
            [
                Line(largest(series("nextclick_model_items")), "known to the live model"),
                Line(
                    largest(series("nextclick_statistics_items")),
                    "counted by the statistics",
                    dashed=True,
                ),
            ],
            unit=COUNT,
            meaning="The live model's catalogue beside the items that are clicked now. Far fewer known: the catalogue "
            "moved on, retrain more often. At statistics.items_max the least popular are not counted.",
        ),
    ]


def _retraining() -> list[Panel]:
    contender = "contender"
    return [
        chart(
            "Runs by result",
            [Line(total(grown(RUNS, over="$__rate_interval"), "result"), "{{result}}")],
            unit=COUNT,
            bars=True,
            alert=RETRAINING_FAILING,
            meaning="Runs as they ended: published, gated (the candidate was no better: read its report under "
            "reports/ in the registry), waiting (too few sessions), failed (read the log). gated again and again: "
            "the next one starts from scratch by itself; if that is refused too, the click log is broken.",
        ),
        chart(
            "Recall @20 before the gate",
            [Line(largest(series("nextclick_retrain_recall_20"), contender), "{{contender}}")],
            unit=SHARE,
            meaning="Of the last run, on the newest sessions, which none of them learned. candidate below live: it is "
            "gated. candidate below popularity: too few clicks, or a broken log; look at the archive.",
        ),
        chart(
            "MRR @20 before the gate",
            [Line(largest(series("nextclick_retrain_mrr_20"), contender), "{{contender}}")],
            unit=SHARE,
            meaning="As Recall, for the rank: the gate refuses a candidate that loses in either. Compare with the live "
            "figures under Answers: far above those, the held-out slice is not what visitors do now.",
        ),
        chart(
            "Steps of the last run",
            [Line(largest(series(STEPS), "step"), "{{step}}")],
            unit=SECONDS,
            stacked=True,
            meaning="How long each step took. More than the interval in sum: fewer epochs, a shorter window, a longer "
            "interval, or more retrain.threads. read growing: compact the click log.",
        ),
        chart(
            "Training speed",
            [
                Line(
                    largest(series("nextclick_retrain_events_per_second")),
                    "clicks learned a second",
                )
            ],
            unit=PER_SECOND,
            meaning="Of the last run. Falling: the machine is busy with other things, or the catalogue grew; give it "
            "retrain.threads, or a machine of its own.",
        ),
        chart(
            "Sessions learned from",
            [Line(largest(series("nextclick_retrain_sessions")), "sessions of two clicks or more")],
            unit=COUNT,
            meaning="In the training window. Falling: fewer visitors, or the archive stands still; look below.",
        ),
    ]


def _refresh() -> list[Panel]:
    return [
        chart(
            "Refreshes by result",
            [
                Line(
                    total(grown("nextclick_refresh_runs_total", over="$__rate_interval"), "result"),
                    "{{result}}",
                )
            ],
            unit=COUNT,
            bars=True,
            alert=RETRAINING_FAILING,
            meaning="Runs of `nextclick refresh` as they ended: published, gated (no better than the live model or the "
            "last full training: the next one starts from that), waiting (too few new clicks), failed (read the log).",
        ),
        chart(
            "Recall @20 of a refreshed model",
            [Line(largest(series("nextclick_refresh_recall_20"), "contender"), "{{contender}}")],
            unit=SHARE,
            meaning="Of the last refresh, on the newest clicks, before it learned them. candidate far above base: the "
            "site changes fast, refresh more often. candidate below live: it is gated.",
        ),
        chart(
            "Steps of the last refresh",
            [Line(largest(series("nextclick_refresh_step_duration_seconds"), "step"), "{{step}}")],
            unit=SECONDS,
            stacked=True,
            meaning="How long each step took. More than the interval in sum: a longer interval, fewer refresh.epochs, "
            "a smaller refresh.replay_share. publish growing: the registry or its disk is slow.",
        ),
        chart(
            "Items known by their description alone",
            [
                Line(largest(series("nextclick_refresh_described_items")), "described"),
                Line(
                    largest(series("nextclick_refresh_unclicked_items")), "in the model, unclicked"
                ),
            ],
            unit=COUNT,
            meaning="Items in topic topics.items, and those of them that a refreshed model knows though nobody clicked "
            "them. 0 unclicked with many described: their attributes tell nothing, or nobody described them early.",
        ),
    ]


def _sources() -> list[Panel]:
    archived = "nextclick_archive_clicks_total"
    return [
        chart(
            "Archived clicks",
            [Line(total(rate(archived, over="$window"), "outcome"), "{{outcome}}")],
            unit=PER_SECOND,
            stacked=True,
            alert=ARCHIVE_BEHIND,
            meaning="Clicks written to the click log, by outcome; in steps of archive.flush_seconds. 0 while clicks "
            "come in: look at the log of `nextclick archive` and its disk. unusable are kept out, and are dead letters.",
        ),
        chart(
            "Not learned yet",
            [
                Line(total(series("nextclick_archive_lag_clicks")), "not in the click log"),
                Line(total(series("nextclick_statistics_lag_clicks")), "not in the statistics"),
            ],
            unit=COUNT,
            alert=ARCHIVE_BEHIND,
            meaning="Clicks on the topic that archive and statistics have not taken in. The archive's is a saw-tooth "
            "of archive.flush_seconds. Growing: that process stands still; beyond the retention clicks are lost.",
        ),
        chart(
            "How old",
            [
                Line(
                    largest(series("nextclick_archive_oldest_pending_seconds")),
                    "oldest click not in a file",
                ),
                Line(largest(series("nextclick_statistics_age_seconds")), "newest statistics"),
            ],
            unit=SECONDS,
            alert=STATISTICS_STALE,
            meaning="The archive's oldest waiting click: above twice archive.flush_seconds writing fails. The newest "
            "statistics: above ten times statistics.publish_seconds while clicks come in, the aggregator hangs.",
        ),
        chart(
            "How long writing takes, p99",
            [
                Line(
                    quantile(0.99, "nextclick_archive_flush_duration_seconds", over="$window"),
                    "a file",
                ),
                Line(
                    quantile(0.99, "nextclick_statistics_publish_duration_seconds", over="$window"),
                    "a version of the statistics",
                ),
            ],
            unit=SECONDS,
            meaning="One Parquet file, rename and commit included, and one publication. Rising: the disk, the object "
            "store or the broker is slow; above statistics.publish_seconds, popularity falls behind.",
        ),
    ]
