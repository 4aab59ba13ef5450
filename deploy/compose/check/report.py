"""What the check found: printed as it goes, and build/compose.json in the end."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from stream_app.core.errors import InvariantError


@dataclass(slots=True)
class Report:
    """Figures in the order they were found; written after each, so that a check cut short leaves some."""

    file: Path
    figures: list[dict[str, str | float]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        click.echo(f"{time.monotonic() - self._began:5.0f} s  {text}")

    def add(self, name: str, value: float, unit: str) -> None:
        self.figures.append({"name": name, "value": round(value, 3), "unit": unit})
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.figures, indent=1) + "\n")
        self.say(f"{name}: {round(value, 3):g} {unit}")

    def sure(self, what: str, *, holds: object, found: object = "") -> None:
        """State a fact that must hold.  Raises `InvariantError` if it does not."""
        if not holds:
            raise InvariantError(f"this should hold and does not: {what} (found: {found})")
        self.say(f"ok: {what}{f' ({found})' if found != '' else ''}")
