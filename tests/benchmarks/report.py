"""The table of a run, and the same as JSON; what was measured on which machine."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import psutil

from stream_app.settings import ServingSettings
from tests.benchmarks.bed import TOP_K, UNITS, Bed
from tests.benchmarks.figures import Figure


def context(bed: Bed) -> str:
    """Hardware, commit, catalogue, batch: what every figure of the run shares."""
    gb = psutil.virtual_memory().total / 2**30
    broker = "a broker given to us" if bed.given_broker else "a broker of its own, JVM defaults"
    parts = (
        f"commit {_commit()}",
        f"{os.cpu_count()} cores {_processor()}",
        f"{gb:.0f} GB",
        f"Python {platform.python_version()}",
        f"ONNX Runtime {onnxruntime.__version__}",
        f"catalogues of {', '.join(f'{n:,}' for n in bed.catalogues)} items",
        f"{UNITS} units",
        f"top {TOP_K}",
        f"batches of up to {ServingSettings().batch_clicks_max}",
        broker,
        f"load average {os.getloadavg()[0]:.1f} at the start",
    )
    return ", ".join(parts)


HEADER = f"{'figure':<66} {'value':>10} {'unit':<14} {'spread':>17} {'limit':>10} {'goal':>9}"


def line(figure: Figure) -> str:
    """A line of the table."""
    spread = f"{number(figure.spread[0])}-{number(figure.spread[1])}" if figure.spread else ""
    limit = number(figure.limit) if figure.limit is not None else ""
    goal = number(figure.goal) if figure.goal is not None else ""
    met = {None: "", True: "  met", False: "  missed"}[figure.is_met]
    note = f"  ({figure.note})" if figure.note else ""
    return (
        f"{figure.name:<66} {number(figure.value):>10} {figure.unit:<14} {spread:>17} {limit:>10} "
        f"{goal:>9}{met}{note}"
    )


def number(value: float) -> str:
    """Four digits that count, thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.6f}".rstrip("0") if 0.99 < value < 1 else f"{value:.4g}"


def write(out: Path, figures: Iterable[Figure], measured_on: str) -> None:
    """A list of {name, value, unit, limit?, goal?, spread?, note?, measured_on}."""
    rows = [{**_present(figure), "measured_on": measured_on} for figure in figures]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


def _present(figure: Figure) -> dict[str, Any]:
    return {name: value for name, value in asdict(figure).items() if value not in (None, "")}


def read(file: Path) -> tuple[list[Figure], str]:
    """What `write` wrote, and what it was measured on."""
    rows = json.loads(file.read_text())
    measured_on: str = rows[0]["measured_on"]
    for row in rows:
        del row["measured_on"]
        if "spread" in row:
            row["spread"] = tuple(row["spread"])
    return [Figure(**row) for row in rows], measured_on


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    for text in file.read_text().splitlines() if file.exists() else ():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()
