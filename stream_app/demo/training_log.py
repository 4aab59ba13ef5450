"""What the retraining says in its log, as news and as a status for the live view."""

import re
from pathlib import Path
from typing import Final

_PROGRESS: Final = re.compile(
    r"training +(?P<share>\d+) %: epoch (?P<epoch>\S+), loss (?P<loss>\S+),.* (?P<left>\S+) left"
)
_WAITING: Final = re.compile(r"nothing trained: (?P<there>\d+) of (?P<wanted>\d+) sessions")
_BEGUN: Final = re.compile(
    r"training from (?P<origin>.*) on (?P<sessions>\S+) sessions, (?P<clicks>\S+) clicks"
)
_NEWS: Final = re.compile(r"model (?P<version>\S+) (?P<what>is live|was refused): (?P<why>.*)")


class TrainingLog:
    """Reads along in the log file; `status` says what goes on now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0
        self._rest = b""
        self.status = "starting the training"
        self.published = 0
        self.refused = 0

    @property
    def is_settled(self) -> bool:
        """Whether a first training came to its end."""
        return self.published + self.refused > 0

    def news(self) -> list[str]:
        """Lines worth telling since the last call."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._read_to)
                data = log.read()
        except OSError:
            return []
        self._read_to += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = (self._take(line.decode(errors="replace").strip()) for line in lines)
        return [text for text in found if text]

    def _take(self, line: str) -> str | None:
        progress = _PROGRESS.match(line)
        if progress is not None:
            self.status = f"training epoch {progress['epoch']}, loss {progress['loss']}, {progress['left']} left"
            return None
        news = _NEWS.match(line)
        if news is not None:
            self.published += news["what"] == "is live"
            self.refused += news["what"] == "was refused"
            self.status = "waiting for the next training"
            return line
        waiting, begun = _WAITING.match(line), _BEGUN.match(line)
        if waiting is not None:
            self.status = f"training begins at {int(waiting['wanted']):,} sessions ({int(waiting['there']):,})"
        elif begun is not None:
            self.status = f"training on {begun['sessions']} sessions, {begun['clicks']} clicks"
        return None
