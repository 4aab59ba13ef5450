"""Follow the releases and keep the live model loaded, aside from the loop that serves."""

import threading
from collections.abc import Callable
from typing import Final, Literal

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import Release, ReleaseFollower
from stream_app.core.errors import BundleError, NextclickError, ServiceAwayError
from stream_app.files.registry import Registry
from stream_app.logging_setup import get_logger

RETRY_SECONDS: Final = 5.0
"""A registry or broker that is away for a moment is asked again; a bundle that is refused is not."""

SwapResult = Literal["swapped", "refused", "unloaded"]

log = get_logger("live_model")


class LiveModel:
    """The model to answer with.  A thread loads, verifies and warms up each release; `scorer` then
    changes between two reads, so a batch that reads it once has one model.

    A bundle that fails a check leaves the live model in place.  Only where there is none (the worker
    just started), the version before it is tried, so that a bad release does not outlive a restart.
    """

    def __init__(
        self,
        follower: ReleaseFollower,
        registry: Registry,
        *,
        poll_seconds: float,
        on_swap: Callable[[SwapResult, OnnxScorer | None], None],
    ) -> None:
        """on_swap: called in our thread after each release that was looked at, for metrics."""
        self.scorer: OnnxScorer | None = None
        self._settled = threading.Event()
        self._follower, self._registry = follower, registry
        self._poll_seconds, self._on_swap = poll_seconds, on_swap
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_settled(self) -> bool:
        """Whether the newest release was looked at once: loaded, refused, or none there."""
        return self._settled.is_set()

    def wait_until_settled(self, seconds: float) -> bool:
        """Wait for that, so that a restart does not answer from popularity while the model loads."""
        return self._settled.wait(seconds)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        waiting: Release | None = None
        while not self._stop.is_set():
            try:
                waiting = self._follower.poll(self._poll_seconds) or waiting
                if waiting is not None and self._follower.caught_up:
                    self._take(waiting)
                    waiting = None
                if self._follower.caught_up:
                    self._settled.set()
            except NextclickError as error:
                log.warning("releases_unreadable", error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception as error:  # whatever went wrong, the live model goes on
                log.exception("release_failed", error=str(error))
                self._stop.wait(RETRY_SECONDS)
        self._follower.close()

    def _take(self, release: Release) -> None:
        version = release.model_version
        if version is None:
            self.scorer = None
            self._on_swap("unloaded", None)
            log.info("model_unloaded", reason=release.reason)
            return
        if self.scorer is not None and self.scorer.model_version == version:
            return
        candidates = [version] if self.scorer is not None else [version, *release.history[::-1]]
        for candidate in candidates:
            if self._load(candidate):
                return

    def _load(self, version: str) -> bool:
        try:
            scorer = OnnxScorer.load(self._registry.fetch(version))
        except BundleError as error:
            self._on_swap("refused", self.scorer)
            live = self.scorer.model_version if self.scorer else None
            log.error(  # noqa: TRY400 - a refusal is an answer; its text says all
                "bundle_refused", model_version=version, live=live, error=str(error)
            )
            return False
        except OSError as error:
            raise ServiceAwayError(f"the registry cannot be read: {error}") from error
        self.scorer = scorer
        self._on_swap("swapped", scorer)
        log.info("model_swapped", model_version=version, n_items=len(scorer.vocabulary))
        return True
