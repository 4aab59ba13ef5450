"""Reports as the markdown of models/EXPERIMENTS.md."""

from collections.abc import Iterator
from typing import Any

HEADER = (
    "| targets | ranker | R@5 | R@10 | R@20 (95 %) | MRR@20 (95 %) | NDCG@20 | coverage | "
    "popularity | warm R@20 / MRR@20 |\n|---|---|---|---|---|---|---|---|---|---|"
)


def markdown(name: str, report: dict[str, Any]) -> Iterator[str]:
    """A dated heading, a row per ranker, mean and deviation over seeds, and what was left out."""
    model = report["models"][0]
    yield f"## {report['date']}: {name}, {report['protocol']}\n"
    yield HEADER
    targets = f"{report['targets']:,}, {model['cold_targets']:,} cold"
    for row in report["models"]:
        yield (
            f"| {targets} | {row['name']} | {_short(row['recall_5'])} | {_short(row['recall_10'])} "
            f"| {_with_interval(row, 'recall_20')} | {_with_interval(row, 'mrr_20')} "
            f"| {_short(row['ndcg_20'])} | {_short(row['coverage_20'])} "
            f"| {_short(row['popularity_bias'])} "
            f"| {_short(row['warm_recall_20'])} / {_short(row['warm_mrr_20'])} |"
        )
        targets = ""
    for seeds in report["over_seeds"]:
        yield (
            f"\n{seeds['name']}, {seeds['bundles']} seeds: R@20 {_short(seeds['recall_20_mean'])} "
            f"± {_short(seeds['recall_20_sd'])}, MRR@20 {_short(seeds['mrr_20_mean'])} "
            f"± {_short(seeds['mrr_20_sd'])}."
        )
    for left_out, why in report["skipped"].items():
        yield f"\n{left_out}: left out, {why}."
    yield ""


def _with_interval(row: dict[str, Any], figure: str) -> str:
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    return f"{_short(row[figure])} ({_short(low)}-{_short(high)})"


def _short(share: float) -> str:
    """Four digits, as the tables there have them: .0733."""
    text = f"{share:.4f}"
    return text.removeprefix("0") if share < 1 else text
