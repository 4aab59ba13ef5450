"""What is done for each request; `routes` says which."""

import asyncio
import time
from typing import Any, Final

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stream_app.adapters.click_sender import ClickSender
from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.core.clicks import decode_click
from stream_app.core.errors import (
    BadRecordError,
    BundleError,
    ConfigurationError,
    ServiceAwayError,
)
from stream_app.core.records import ERASE, NO_MODEL, Click, ClickSource, recommendation_id
from stream_app.gateway import records
from stream_app.gateway.live import LiveFeed
from stream_app.gateway.memory import ItemMemory, SessionMemory, SessionTrace
from stream_app.gateway.models import ItemSpace, ModelRoom
from stream_app.gateway.parameters import read_json_body, several, whole_number, yes_or_no
from stream_app.gateway.problems import Refused, unavailable
from stream_app.gateway.shown import shown_answer
from stream_app.gateway.stream import StreamReading
from stream_app.gateway.waiting import Wait
from stream_app.logging_setup import get_logger
from stream_app.settings import Settings
from stream_app.tools import sessions as changelog

JSON: Final = "application/json"
SIMILARITY_DIGITS: Final = 5

log = get_logger("gateway")
_encode = msgspec.json.Encoder().encode


def answer(value: Any, status: int = 200) -> Response:
    return Response(_encode(value), status, media_type=JSON)


class Endpoints:
    """Everything behind the routes; each method takes a request and returns its answer."""

    def __init__(
        self,
        settings: Settings,
        instruments: GatewayInstruments,
        *,
        sender: ClickSender,
        stream: StreamReading,
        sessions: SessionMemory,
        items: ItemMemory,
        live: LiveFeed,
        models: ModelRoom,
    ) -> None:
        self._settings, self._instruments = settings, instruments
        self._sender, self._stream, self._live = sender, stream, live
        self._sessions, self._items, self._models = sessions, items, models
        self._event_types = frozenset(settings.serving.event_types)
        self._ahead_ms_max = settings.serving.event_time_ahead_hours_max * 3_600_000
        self._changelog_is_read = asyncio.Lock()

    # -- clicks ---------------------------------------------------------------------------------------

    async def post_click(self, request: Request) -> Response:
        began = time.perf_counter()
        limits = self._settings.gateway
        wait_ms = whole_number(request, "wait", 0, 0, limits.wait_ms_max)
        try:
            body = await read_json_body(
                request, bytes_max=limits.body_bytes_max, seconds=limits.idle_seconds_max
            )
        except Refused as refused:
            if refused.status == 413:
                self._instruments.turned_away.labels("body").inc()
            raise
        click = self._decode(body)
        if click.consent and click.event_type != ERASE:
            self._sessions.adopt(click.session_id)
        with self._stream.waits.expect(click.session_id) as wait:
            source = await self._store(click, body)
            found = recommendation_id(source.topic, source.partition, source.offset)
            raw, reason = await self._answer_to(click, found, wait, wait_ms)
        fields = {
            "recommendation_id": found,
            "recommendation": None if raw is None else msgspec.Raw(raw),
            "reason": reason,
            "waited_ms": round((time.perf_counter() - began) * 1000, 2),
        }
        return answer(fields, 202 if raw is None else 200)

    def _decode(self, body: bytes) -> Click:
        """The worker's own judgement, so that nothing it would dead-letter is taken."""
        try:
            return decode_click(
                body,
                kafka_timestamp_ms=time.time_ns() // 1_000_000,
                ahead_ms_max=self._ahead_ms_max,
            )
        except BadRecordError as error:
            self._instruments.clicks.labels("refused").inc()
            raise Refused(400, error.kind, str(error)) from error

    async def _store(self, click: Click, body: bytes) -> ClickSource:
        began = time.perf_counter()
        seconds = self._settings.gateway.store_ms_max / 1000
        try:
            source = await self._sender.store(click.session_id.encode(), body, seconds=seconds)
        except ServiceAwayError as error:
            self._instruments.clicks.labels("not_stored").inc()
            raise unavailable("NotStored", str(error)) from error
        self._instruments.clicks.labels("stored").inc()
        self._instruments.store_duration.observe(time.perf_counter() - began)
        return source

    async def _answer_to(
        self, click: Click, found: str, wait: Wait, wait_ms: int
    ) -> tuple[bytes | None, str | None]:
        """The answer as it is on the topic, or why there is none."""
        if not wait_ms:
            return None, "not_waited"
        if click.event_type not in self._event_types:
            self._instruments.waits.labels("not_answered").inc()
            return None, "not_answered"
        began = time.perf_counter()
        raw = await wait.answer_to(found, wait_ms / 1000)
        if raw is None:
            self._instruments.waits.labels("timed_out").inc()
            return None, "timed_out"
        self._instruments.waits.labels("answered").inc()
        self._instruments.wait_duration.observe(time.perf_counter() - began)
        return raw, None

    # -- sessions -------------------------------------------------------------------------------------

    async def get_recommendations(self, request: Request) -> Response:
        session_id = request.path_params["session_id"]
        trace = self._sessions.find(session_id)
        if trace is None or not trace.answers:
            raise _unknown_session()
        newest = next(reversed(trace.answers.values()))
        return answer({"session_id": session_id, "recommendation": msgspec.Raw(newest)})

    async def get_session(self, request: Request) -> Response:
        session_id = request.path_params["session_id"]
        trace = self._sessions.find(session_id)
        known = None
        if yes_or_no(request, "changelog"):
            known = await self._from_changelog(session_id)
        if known is None and (trace is None or not (trace.clicks or trace.answers)):
            raise _unknown_session()
        clicks = self._clicks_of(trace) if trace else []
        return answer(records.SessionAnswer(session_id=session_id, clicks=clicks, changelog=known))

    def _clicks_of(self, trace: SessionTrace) -> list[records.SessionClick]:
        title_of = self._items.title_of
        clicks = []
        for click in trace.clicks:
            raw = trace.answers.get(click.recommendation_id)
            clicks.append(
                records.SessionClick(
                    recommendation_id=click.recommendation_id,
                    event_time_ms=click.event_time_ms,
                    item_id=click.item_id,
                    title=title_of(click.item_id),
                    judged=click.judged,
                    answer=shown_answer(raw, title_of) if raw else None,
                )
            )
        return clicks

    async def _from_changelog(self, session_id: str) -> records.ChangelogSession | None:
        if self._changelog_is_read.locked():
            raise unavailable("Busy", "the changelog is being read for somebody else: try again")
        kafka, topic = self._settings.kafka, self._settings.topics.sessions
        async with self._changelog_is_read:
            try:
                known = await asyncio.to_thread(changelog.find_session, kafka, topic, session_id)
            except (ServiceAwayError, ConfigurationError) as error:
                log.warning("changelog_unreadable", error=str(error))
                raise unavailable("Unavailable", "the changelog cannot be read") from error
        if known is None or known.state.is_removed:
            return None
        return await self._described(known)

    async def _described(self, known: changelog.KnownSession) -> records.ChangelogSession:
        state = known.state
        candidates = [*self._items.ids(), *state.recent_item_ids]
        if state.shown_model_version not in ("", NO_MODEL):
            try:
                space = await self._models.space(state.shown_model_version)
                candidates += space.vocabulary.ids
            except (BundleError, ConfigurationError) as error:
                log.warning("model_unreadable", error=str(error))
        shown = await asyncio.to_thread(changelog.shown_items, known, candidates)
        return records.ChangelogSession(
            partition=known.partition,
            last_offset=state.last_offset,
            clicks=state.click_count,
            first_event_ms=state.start_ms,
            last_event_ms=state.last_event_ms,
            model_version=state.model_version or None,
            recent_items=[
                records.NamedItem(i, self._items.title_of(i)) for i in state.recent_item_ids
            ],
            shown_by=state.shown_model_version or None,
            shown=[records.ShownHash(item.rank, list(item.item_ids)) for item in shown],
        )

    # -- models and items -----------------------------------------------------------------------------

    async def get_models(self, _request: Request) -> Response:
        try:
            return answer(await self._models.listed())
        except ConfigurationError as error:
            raise _no_registry(error) from error

    async def get_neighbours(self, request: Request) -> Response:
        limit = whole_number(request, "limit", 10, 1, 100)
        space = await self._space(request.path_params["version"])
        item_id = request.path_params["item_id"]
        index = space.vocabulary.index_of.get(item_id)
        if index is None:
            raise Refused(
                404, "UnknownItem", f"model {space.model_version} does not know that item"
            )
        near = await asyncio.to_thread(space.neighbours, index, limit)
        title_of = self._items.title_of
        return answer(
            records.NeighboursAnswer(
                model_version=space.model_version,
                item_id=item_id,
                title=title_of(item_id),
                neighbours=[
                    records.Neighbour(i, title_of(i), round(similarity, SIMILARITY_DIGITS))
                    for i, similarity in near
                ],
            )
        )

    async def get_map(self, request: Request) -> Response:
        limit = whole_number(request, "limit", 500, 3, 2000)
        space = await self._space(request.path_params["version"])
        places = await self._models.map_of(space, limit)
        points = []
        for index, (x, y) in zip(space.most_popular(limit), places.tolist(), strict=True):
            item_id = space.vocabulary.ids[index]
            points.append(
                records.MapPoint(
                    item_id=item_id,
                    title=self._items.title_of(item_id),
                    category=self._items.category_of(item_id),
                    x=round(x, 5),
                    y=round(y, 5),
                    popularity=round(float(space.popularity[index]), 8),
                )
            )
        return answer(
            records.MapAnswer(
                model_version=space.model_version,
                n_items=len(space.vocabulary),
                points=points,
            )
        )

    async def get_items(self, request: Request) -> Response:
        limit = whole_number(request, "limit", 60, 1, 500)
        wanted = several(request, "ids", 500)
        source, live = "stream", self._models.live_version()
        popular = self._items.popularity_of(wanted) if wanted else self._items.most_popular(limit)
        if not popular and live is not None:
            space = await self._space(live)
            source = "model"
            popular = [
                (space.vocabulary.ids[i], float(space.popularity[i]))
                for i in space.most_popular(limit)
            ]
        items = [
            records.ShopItem(
                item_id=item_id,
                title=self._items.title_of(item_id),
                category=self._items.category_of(item_id),
                popularity=round(share, 8),
            )
            for item_id, share in popular
        ]
        return answer(records.ItemsAnswer(source=source, items=items))

    async def _space(self, version: str) -> ItemSpace:
        if version == "live":
            live = self._models.live_version()
            if live is None:
                raise Refused(404, "NoModel", "no model is live: the statistics answer")
            version = live
        try:
            return await self._models.space(version)
        except BundleError as error:
            log.warning("model_unreadable", error=str(error))
            raise Refused(
                404, "UnknownModel", "there is no usable model of that version: see /v1/models"
            ) from error
        except ConfigurationError as error:
            raise _no_registry(error) from error

    # -- the process ----------------------------------------------------------------------------------

    async def get_live(self, _request: Request) -> Response:
        if self._live.is_full:
            raise unavailable("Busy", "too many read the live feed already", retry_seconds=10)
        return _LiveResponse(self._live)

    async def get_metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = await asyncio.to_thread(encode, self._instruments.registry)
        return Response(body, headers={"content-type": content_type})

    async def get_health(self, _request: Request) -> Response:
        return _health(*self._stream.health())

    async def get_readiness(self, _request: Request) -> Response:
        return _health(*self._stream.readiness())


class _LiveResponse(Response):
    """Answers by streaming until its reader leaves."""

    def __init__(self, live: LiveFeed) -> None:
        super().__init__()
        self._live = live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._live.stream(scope, receive, send)


def _health(is_good: bool, reason: str) -> Response:
    status = "ok" if is_good else "unavailable"
    return answer(records.HealthAnswer(status, reason), 200 if is_good else 503)


def _unknown_session() -> Refused:
    return Refused(
        404,
        "UnknownSession",
        "this gateway has not seen the session lately: ?changelog=true looks further back",
    )


def _no_registry(error: ConfigurationError) -> Refused:
    log.warning("registry_unreadable", error=str(error))
    return unavailable("Unavailable", "the registry cannot be read: see the gateway's log")
