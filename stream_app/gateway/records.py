"""What the gateway answers, as JSON: `openapi.json` is made from these."""

from typing import Annotated, Any

import msgspec

from stream_app.core.records import Recommendation

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Problem(msgspec.Struct, frozen=True):
    kind: str
    """Closed set, for programs."""
    message: str
    """What is wrong and what to do, for people."""


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Every answer with a status of 400 or above."""

    error: Problem


class ClickAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A click that is stored on all replicas, and its answer where it was waited for and came."""

    recommendation_id: str
    recommendation: Recommendation | None
    reason: str | None
    """Why there is no recommendation: `not_waited`, `timed_out`, `not_answered`."""
    waited_ms: float


class LastRecommendation(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    recommendation: Recommendation


class NamedItem(msgspec.Struct, frozen=True):
    item_id: str
    title: str | None
    """As clicks name it (`properties.title`), or else its description in the items topic."""


class Judged(msgspec.Struct, frozen=True):
    """What a click says of the answer before it."""

    model_version: str
    """`none` for popularity."""
    rank: int
    """Of the clicked item in that answer, from 1; 0: it was not among the first 20."""


class ShownAnswer(msgspec.Struct, frozen=True):
    model_version: str | None
    fallback: str | None
    latency_ms: int
    items: list[NamedItem]


class SessionClick(msgspec.Struct, frozen=True, kw_only=True):
    recommendation_id: str
    event_time_ms: int
    item_id: str
    title: str | None
    judged: Judged | None
    """None where nothing had been shown before."""
    answer: ShownAnswer | None


class ShownHash(msgspec.Struct, frozen=True):
    rank: int
    item_ids: list[str]
    """One as a rule; none where no source knows it; several if hashes collide."""


class ChangelogSession(msgspec.Struct, frozen=True, kw_only=True):
    """The session's record in the changelog topic."""

    partition: int
    last_offset: int
    clicks: int
    first_event_ms: int
    last_event_ms: int
    model_version: str | None
    recent_items: list[NamedItem]
    """Oldest first."""
    shown_by: str | None
    shown: list[ShownHash]


class SessionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str
    clicks: list[SessionClick]
    """Oldest first, as far as this gateway saw them and remembers."""
    changelog: ChangelogSession | None


class LatencyMs(msgspec.Struct, frozen=True):
    """Of the last minute, from Kafka's timestamp of the click to its answer."""

    p50: int | None
    p99: int | None


class ModelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Since the gateway started."""

    version: str
    answers: int
    predictions: int
    """Answers judged by their session's next click."""
    hits: int
    reciprocal_rank: float
    popularity_hits: int
    """What popularity would have scored on the very same clicks."""
    popularity_reciprocal_rank: float


class SwapFigures(msgspec.Struct, frozen=True):
    version: str
    at_ms: int
    longest_gap_ms: int | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Event `figures` of the live feed; counts since the gateway started."""

    at_ms: int
    clicks_per_second: float
    latency_ms: LatencyMs
    clicks: int
    recommended: int
    dead_lettered: int
    ignored: dict[str, int]
    live_version: str | None
    """Version of the newest release."""
    models: list[ModelFigures]
    swaps: list[SwapFigures]
    best_possible_hit_rate_20: Share | None


class SampledAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Event `answer` of the live feed."""

    session: str
    session_id: str | None
    at_ms: int
    item_id: str
    title: str | None
    judged: Judged | None
    answer: ShownAnswer | None


class LiveRelease(msgspec.Struct, frozen=True, kw_only=True):
    model_version: str | None
    released_at: str
    previous: str | None
    reason: str
    history: tuple[str, ...]


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    model_version: str
    is_live: bool
    created_at: str
    architecture: str
    n_items: int
    state_bytes: int
    hyperparameters: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, Any]
    scoring: dict[str, Any]
    software: dict[str, str]


class ModelsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    live: LiveRelease | None
    models: list[ModelFacts]
    """Newest first."""
    reports: list[dict[str, Any]]
    """`report.json` of each training run, newest first; those the gate refused too."""


class Neighbour(msgspec.Struct, frozen=True):
    item_id: str
    title: str | None
    similarity: float
    """Cosine of the item2vec vectors."""


class NeighboursAnswer(msgspec.Struct, frozen=True, kw_only=True):
    model_version: str
    item_id: str
    title: str | None
    neighbours: list[Neighbour]


class MapPoint(msgspec.Struct, frozen=True, kw_only=True):
    item_id: str
    title: str | None
    category: str | None
    x: float
    y: float
    popularity: float
    """Share of the training window's clicks."""


class MapAnswer(msgspec.Struct, frozen=True, kw_only=True):
    model_version: str
    n_items: int
    """Of the model; the most popular of them are points."""
    points: list[MapPoint]
    """Most popular first."""


class ShopItem(msgspec.Struct, frozen=True, kw_only=True):
    item_id: str
    title: str | None
    category: str | None
    popularity: Share


class ItemsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    """`stream` or `model`."""
    items: list[ShopItem]
    """Most popular first."""


class HealthAnswer(msgspec.Struct, frozen=True):
    status: str
    reason: str
