"""Writes the dashboards as Grafana reads them: `python -m deploy.grafana.generate`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.answers import answers
from deploy.grafana.flow import flow
from deploy.grafana.gateway import gateway
from deploy.grafana.models import models
from deploy.grafana.state import state

FOLDER: Final = Path(__file__).parent / "dashboards"


def as_json() -> Mapping[str, str]:
    """Each dashboard by its file's name."""
    return {
        f"{board.uid}.json": json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in (answers(), flow(), gateway(), state(), models())
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    made = as_json()
    for old in FOLDER.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
