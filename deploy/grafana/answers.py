"""*Answers*: how good the recommendations are while they are given."""

from typing import Final

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.frame import Row, alerts_firing, dashboard
from deploy.grafana.panels import (
    COUNT,
    NO_MODEL_YET,
    PER_SECOND,
    SECONDS,
    SHARE,
    TIMES,
    Limits,
    Line,
    Panel,
    chart,
    number,
)
from deploy.grafana.queries import (
    grown,
    largest,
    rate,
    series,
    share,
    share_of_all,
    share_of_many,
    total,
)

HITS: Final = "nextclick_live_hits_total"
RANKS: Final = "nextclick_live_reciprocal_rank_total"
JUDGED: Final = "nextclick_live_predictions_total"
POPULARITY_HITS: Final = "nextclick_live_popularity_hits_total"
POPULARITY_RANKS: Final = "nextclick_live_popularity_reciprocal_rank_total"
GIVEN: Final = "nextclick_recommendations_total"

ENOUGH: Final = 30
"""Judged answers in the window: a model that was replaced is judged for a while yet, by fewer and fewer clicks,
and its line would end in noise."""

BELOW_POPULARITY: Final = "NextclickHitRateBelowPopularity"


def answers() -> Dashboard:
    return dashboard(
        "Answers",
        "How good the recommendations are while they are given: each session's next click judges the last answer.",
        [
            Row("Now", _now()),
            Row("Quality", _quality()),
            Row("What is answered", _answered()),
        ],
    )


def _now() -> list[Panel]:
    hits, popularity = total(grown(HITS)), total(grown(POPULARITY_HITS))
    judged = total(grown(JUDGED))
    fallbacks = total(grown(GIVEN, 'fallback!=""'))
    return [
        alerts_firing(),
        number(
            "Hit rate @20",
            share(hits, judged),
            unit=SHARE,
            decimals=1,
            width=3,
            meaning="Judged answers that had the next click among their first 20, over the window. Falling: see "
            "whether popularity falls too (the visitors changed) or not (the model aged: look at Models).",
        ),
        number(
            "Popularity @20",
            share(popularity, judged),
            unit=SHARE,
            decimals=1,
            width=3,
            meaning="What the list of the most popular items would have hit of the very same clicks. It is what the "
            "model has to beat; rising by itself: something is on sale, or a bot clicks.",
        ),
        number(
            "Times popularity",
            share(hits, popularity),
            unit=TIMES,
            decimals=2,
            limits=Limits(warn=1.1, bad=1),
            alert=BELOW_POPULARITY,
            width=3,
            meaning="Hits of what was answered for each hit of popularity, over the window. Below 1: no model would "
            "do better; roll back with `nextclick models rollback` and read the report of the last retraining.",
        ),
        number(
            "MRR @20",
            share(total(grown(RANKS)), judged),
            unit=SHARE,
            decimals=1,
            width=3,
            meaning="Mean of 1/rank of the next click, 0 where it was not among the first 20. Falling while the hit "
            "rate does not: the right items are further down the list.",
        ),
        number(
            "Answers",
            total(rate(GIVEN)),
            unit=PER_SECOND,
            decimals=1,
            alert="NextclickNoAnswers",
            width=3,
            meaning="Recommendations a second. 0 while clicks come in: look at Flow, then at the workers' log.",
        ),
        number(
            "From popularity",
            share(f"({fallbacks} or vector(0))", total(grown(GIVEN))),
            unit=SHARE,
            decimals=1,
            limits=Limits(warn=0.1, bad=0.5),
            width=3,
            meaning="Answers that popularity had to give, over the window. Rising: the panel Fallbacks says why.",
        ),
        number(
            "Catalogue used",
            share(
                largest(series("nextclick_recommended_items")),
                largest(series("nextclick_model_items")),
            ),
            unit=SHARE,
            decimals=1,
            width=3,
            meaning="Of the items the model knows, those that one worker recommended to anybody in the last 5 to 10 "
            "minutes. Falling while the clicks do not: everybody gets the same; compare the last two models' reports.",
        ),
    ]


def _quality() -> list[Panel]:
    by_model = "model_version"
    judged = total(grown(JUDGED), by_model)
    given = total(grown(GIVEN))
    return [
        chart(
            "Hit rate @20 by model, against popularity",
            [
                Line(
                    share_of_many(total(grown(HITS), by_model), judged, at_least=ENOUGH),
                    "{{model_version}}",
                ),
                Line(
                    share(total(grown(POPULARITY_HITS)), total(grown(JUDGED))),
                    "popularity, same clicks",
                    dashed=True,
                ),
            ],
            unit=SHARE,
            named_by=NO_MODEL_YET,
            alert=BELOW_POPULARITY,
            meaning="Judged answers with the next click among their first 20, by the model that gave them, and what "
            "popularity would have hit. A new model below the one before it: `nextclick models rollback`. All "
            "falling together: the visitors changed, let it retrain more often.",
        ),
        chart(
            "MRR @20 by model, against popularity",
            [
                Line(
                    share_of_many(total(grown(RANKS), by_model), judged, at_least=ENOUGH),
                    "{{model_version}}",
                ),
                Line(
                    share(total(grown(POPULARITY_RANKS)), total(grown(JUDGED))),
                    "popularity, same clicks",
                    dashed=True,
                ),
            ],
            unit=SHARE,
            named_by=NO_MODEL_YET,
            alert=BELOW_POPULARITY,
            meaning="Mean of 1/rank of the next click, by model, and popularity's on the same clicks. Falling while "
            "the hit rate stays: right items, worse order; compare the MRR in the retraining reports.",
        ),
        chart(
            "What became of the answers",
            [
                Line(share(total(grown(HITS)), given), "hit"),
                Line(
                    share(f"clamp_min({total(grown(JUDGED))} - {total(grown(HITS))}, 0)", given),
                    "ignored: another item was clicked",
                ),
                Line(
                    share(f"clamp_min({given} - {total(grown(JUDGED))}, 0)", given),
                    "no further click (yet)",
                ),
            ],
            unit=SHARE,
            stacked=True,
            ceiling=1,
            meaning="Of the answers given in the window: followed by a click on one of them, by a click on something "
            "else, or by none, since the visitor left or is still reading. More ignored: quality fell. More without a "
            "click: sessions got shorter; look for bots and at the shop itself.",
        ),
        chart(
            "Better than popularity, by model",
            [
                Line(
                    share(total(grown(HITS), by_model), total(grown(POPULARITY_HITS), by_model))
                    + f" and {judged} >= {ENOUGH}",
                    "{{model_version}}",
                ),
                Line("vector(1)", "as good as popularity", dashed=True),
            ],
            unit=TIMES,
            decimals=2,
            named_by=NO_MODEL_YET,
            alert=BELOW_POPULARITY,
            meaning="Hits of each model for each hit popularity would have had on the same clicks. Below the dashed "
            "line for minutes: roll back; a candidate that slipped through the gate had too small a held-out slice.",
        ),
    ]


def _answered() -> list[Panel]:
    return [
        chart(
            "Answers by model",
            [Line(total(rate(GIVEN), "model_version"), "{{model_version}}")],
            unit=PER_SECOND,
            stacked=True,
            named_by=NO_MODEL_YET,
            meaning="Recommendations a second by the model that was live. Two for more than seconds: some workers did "
            "not take the new model; see Swaps under Models and the log of those that answer with the old one.",
        ),
        chart(
            "Fallbacks",
            [
                Line(
                    share_of_all(
                        total(grown(GIVEN, 'fallback!=""'), "fallback"), total(grown(GIVEN))
                    ),
                    "{{fallback}}",
                )
            ],
            unit=SHARE,
            stacked=True,
            meaning="Share of answers that popularity had to give, by reason. unknown_item: the catalogue moved on, "
            "retrain more often. no_model after the first training: see Swaps. no_consent: visitors declined, no fault.",
        ),
        chart(
            "Items known and items recommended",
            [
                Line(largest(series("nextclick_model_items")), "known to the model"),
                Line(
                    largest(series("nextclick_recommended_items"), "instance"),
                    "recommended lately by {{instance}}",
                ),
            ],
            unit=COUNT,
            meaning="The live model's catalogue, and how much of it each worker recommended in the last 5 to 10 "
            "minutes (anew after a swap). Known items falling at a swap: the training window lost part of the log.",
        ),
        chart(
            "How old popularity is at the workers",
            [
                Line(
                    largest(series("nextclick_worker_statistics_staleness_seconds"), "instance"),
                    "{{instance}}",
                )
            ],
            unit=SECONDS,
            alert="NextclickStatisticsStale",
            meaning="Since a worker last got new statistics. Normally statistics.publish_seconds (2 s). Growing while "
            "clicks come in: `nextclick statistics` does not run, and popularity answers from old counts.",
        ),
    ]
