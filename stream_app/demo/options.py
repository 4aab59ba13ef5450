"""What a demo is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    seconds: float | None = None
    """End by itself after so long."""
    report: Path | None = None
    data_dir: Path | None = None
    keep: bool = False
    """Keep everything, the broker's data included."""
    clicks_per_second: float = 150.0
    seed: int = 0
    retrain_every_seconds: float = 60.0
    refresh_every_seconds: float | None = 20.0
    """None: never."""
    training_env: Path | None = None
    data: Path | None = None
    """A recorded log instead of the simulated shop."""
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Ours to the file's, e.g. {"item_id": "sku"}."""
    first_day: datetime | None = None
    train_days: float | None = None
    stream_days: float | None = None
    speed: str | None = None
    """As `nextclick replay --speed` takes it."""
    started_at: float | None = None
    """When the command began (seconds since the epoch), where that was before this process."""
