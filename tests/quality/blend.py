"""The weight of a blend, chosen on the end of the training part with a model that has not seen it."""

from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream_app.core.metrics import RankingQuality
from stream_app.evaluation.tuning import value_of
from stream_app.settings import Settings
from stream_app.tools.evaluate import FileEvaluation, evaluate_file
from tests.quality.data_sets import Say
from tests.quality.training import Training, train

WEIGHTS: Final = (0.2, 0.35, 0.5, 0.65, 0.8)
HELD_OUT_SESSIONS: Final = 4_000


def without_test(sequences: pa.Table, *, held_out: int = HELD_OUT_SESSIONS) -> pa.Table:
    """The training part alone, its newest sessions marked as the test."""
    part = sequences.filter(pc.equal(sequences["split"], "train"))
    numbers = part["session_id"].combine_chunks().dictionary_encode().indices
    newest = pc.greater_equal(numbers, pc.max(numbers).as_py() + 1 - held_out)
    split = pc.if_else(newest, "test", "train")
    return part.set_column(part.schema.get_field_index("split"), "split", split)


def tuned_weight(
    training: Training, sequences: Path, directory: Path, say: Say
) -> tuple[float, list[dict[str, object]]]:
    """The best weight, and the rows it was chosen from.  Costs one training more, and its evaluation."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "validation.parquet"
    pq.write_table(without_test(pq.read_table(sequences)), file)
    bundle = train(training, file, directory / f"{training.model}-validation", seed=0)
    plan = FileEvaluation(
        data=file,
        bundles=(bundle,),
        rankers=("session-knn", "bundle", "blend"),
        blend_weights=WEIGHTS,
    )
    rows = evaluate_file(plan, Settings(), say=say)["models"]
    figures = {
        weight: value_of(msgspec.convert(row, RankingQuality))
        for weight in WEIGHTS
        for row in rows
        if row["name"].endswith(f"({weight:g})")
    }
    return max(figures, key=figures.__getitem__), rows
