"""Follow the releases and keep the live model loaded, aside from the loop that serves."""

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

from stream_app.adapters.onnx_scorer import OnnxScorer
from stream_app.adapters.releases import Release, ReleaseFollower
from stream_app.core.errors import BundleError, NextclickError, ServiceAwayError
from stream_app.core.manifest import ModelManifest
from stream_app.files.registry import Registry
from stream_app.logging_setup import get_logger
from stream_app.services.loop_points import AtPoint, LoopPoint, nothing_happens

FIRST_POLL_SECONDS: Final = 0.1
"""Until the newest release is known a start waits for us, and there may be none."""
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
        at: AtPoint = nothing_happens,
    ) -> None:
        """on_swap: called in our thread after each release that was looked at, for metrics.

        at: told of the moment before a swap.
        """
        self.scorer: OnnxScorer | None = None
        self.refuses_release = False
        """The promoted version failed a check, and another one (or none) answers."""
        self._settled = threading.Event()
        self._follower, self._registry = follower, registry
        self._poll_seconds, self._on_swap, self._at = poll_seconds, on_swap, at
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
                patience = self._poll_seconds if self._follower.caught_up else FIRST_POLL_SECONDS
                waiting = self._follower.poll(patience) or waiting
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
            self.refuses_release = False
            self._on_swap("unloaded", None)
            log.info("model_unloaded", reason=release.reason)
            return
        if self.scorer is not None and self.scorer.model_version == version:
            self.refuses_release = False
            return
        candidates = [version] if self.scorer is not None else [version, *release.history[::-1]]
        for candidate in candidates:
            loaded = self._load(candidate)
            self.refuses_release = not loaded or candidate != version
            if loaded:
                return

    def _load(self, version: str) -> bool:
        try:
            scorer = self._opened(version)
        except BundleError as error:
            self._on_swap("refused", self.scorer)
            live = self.scorer.model_version if self.scorer else None
            log.error(  # noqa: TRY400 - a refusal is an answer; its text says all
                "bundle_refused", model_version=version, live=live, error=str(error)
            )
            return False
        except OSError as error:
            raise ServiceAwayError(f"the registry cannot be read: {error}") from error
        self._at(LoopPoint.SWAPPING)
        self.scorer = scorer
        self._on_swap("swapped", scorer)
        log.info("model_swapped", model_version=version, n_items=len(scorer.vocabulary))
        return True

    def _opened(self, version: str) -> OnnxScorer:
        """Raises `BundleError` for whatever is wrong with the bundle, foreseen or not: asked again, it
        would fail again, and nobody would see it.  `OSError`: the registry is away."""
        try:
            bundle = self._registry.open(version)
            _check_name(bundle.manifest, version)
            return OnnxScorer.of(bundle)
        except (NextclickError, OSError):
            raise
        except Exception as error:
            raise BundleError(
                f"version {version} cannot be loaded ({type(error).__name__}: {error}): publish the model "
                "again, or promote another version"
            ) from error


def _check_name(manifest: ModelManifest, version: str) -> None:
    """An answer names the version in the manifest: under another name nobody could find its model."""
    if manifest.model_version != version:
        raise BundleError(
            f"version {version} holds the model {manifest.model_version}: publish it again under its name"
        )
    try:
        datetime.fromisoformat(manifest.created_at)
    except ValueError as error:
        raise BundleError(
            f"version {version} was made at {manifest.created_at[:40]!r}, which is no time: publish it again"
        ) from error
