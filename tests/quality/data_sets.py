"""The public logs of `make quality`, and by which protocol each is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stream_app.settings import Settings
from stream_app.tools.evaluate import (
    FileEvaluation,
    StreamEvaluation,
    evaluate_file,
    evaluate_prequential,
)

DAY_MS: Final = 86_400_000
GLOBO_TEST_MS: Final = 1_507_852_800_000
"""2017-10-13, UTC; the three days before it are for choosing."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class DataSet:
    name: str
    files: tuple[str, ...]
    """Under its directory; absent where any of them is."""
    evaluate: Callable[[Path, Sequence[Path], Sequence[float], Say], dict[str, Any]]
    """The directory, bundles, blend weights: a report of `nextclick evaluate`."""
    minutes: int
    """Of the baselines, tuning included, on one core that does nothing else."""

    def is_there(self, data: Path) -> bool:
        return all((data / self.name / file).is_file() for file in self.files)

    @property
    def training_file(self) -> str:
        return self.files[0]


def _benchmark(
    directory: Path, bundles: Sequence[Path], weights: Sequence[float], say: Say
) -> dict[str, Any]:
    """The literature's pairs."""
    plan = FileEvaluation(
        data=directory / "sequences.parquet",
        pairs=directory / "test_pairs.parquet",
        bundles=tuple(bundles),
        blend_weights=tuple(weights),
    )
    return evaluate_file(plan, Settings(), say=say)


def _newest_tenth(
    directory: Path, bundles: Sequence[Path], weights: Sequence[float], say: Say
) -> dict[str, Any]:
    """As `nextclick train` holds it out."""
    plan = FileEvaluation(
        data=directory / "clicks.parquet", bundles=tuple(bundles), blend_weights=tuple(weights)
    )
    return evaluate_file(plan, Settings(), say=say)


def _news_day(
    directory: Path, bundles: Sequence[Path], _weights: Sequence[float], say: Say
) -> dict[str, Any]:
    """2017-10-13 as a stream."""
    plan = StreamEvaluation(
        data=directory / "clicks.parquet",
        bundles=tuple(bundles),
        from_ms=GLOBO_TEST_MS,
        to_ms=GLOBO_TEST_MS + DAY_MS,
    )
    return evaluate_prequential(plan, Settings(), say=say)


DATA_SETS: Final = (
    DataSet("yoochoose_apr2014", ("clicks.parquet",), _newest_tenth, minutes=1),
    DataSet("yoochoose1_64_seq", ("sequences.parquet", "test_pairs.parquet"), _benchmark, 3),
    DataSet("diginetica_seq", ("sequences.parquet", "test_pairs.parquet"), _benchmark, 3),
    DataSet("globo", ("clicks.parquet",), _news_day, minutes=4),
)
