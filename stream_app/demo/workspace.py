"""The demo's directory: settings that all its processes share, data, logs."""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from stream_app.core.errors import ConfigurationError
from stream_app.settings import ENVIRONMENT_PREFIX, SECRETS, Group, KafkaSettings, Settings

DATA_ROOT: Final = Path("nextclick-data")


class Workspace:
    """A fresh directory.  One the user named stays (without the broker's data, unless `keep`); one
    made up here goes, unless `keep`."""

    def __init__(self, directory: Path | None, *, keep: bool) -> None:
        """Raises `ConfigurationError` if the directory is in use or cannot be written."""
        self._named, self._keep = directory is not None, keep
        self.root = directory or DATA_ROOT / f"demo-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        self.root = self.root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=self._named, mode=0o700)
            if any(self.root.iterdir()):
                raise ConfigurationError(
                    f"--data-dir {self.root} is not empty, and the demo begins afresh: name a "
                    "directory that is new, or empty this one"
                )
            self.logs.mkdir()
        except OSError as error:
            raise ConfigurationError(
                f"the demo's directory {self.root} cannot be used ({error.strerror}): name another "
                "with --data-dir"
            ) from error

    @property
    def broker(self) -> Path:
        return self.root / "broker"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def settings_file(self) -> Path:
        return self.root / "nextclick.toml"

    @property
    def traffic_report(self) -> Path:
        return self.root / "traffic.json"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def settings(self, base: Settings, bootstrap_servers: str, *, sessions_min: int) -> Settings:
        """The user's settings, with everything that says *where* replaced; written for the children.

        sessions_min: sessions to wait for before the first training, where the user sets none.
        """
        settings = base.model_copy(
            update={
                "kafka": KafkaSettings(bootstrap_servers=bootstrap_servers),
                "topics": base.topics.model_copy(update={"replication": 1}),
                "registry": str(self.root / "registry"),
                "click_log": str(self.root / "click-log"),
                "data_dir": self.root / "worker",
                "archive": _unless_given(base.archive, flush_seconds=10.0),
                "gateway": _unless_given(
                    base.gateway,
                    port=free_port(base.gateway.port),
                    live_session_ids=True,  # of a simulated shop, or of a public log
                    simulator_report=self.traffic_report,
                ),
                "retrain": _unless_given(
                    base.retrain, sessions_min=sessions_min, replay_clicks=100_000
                ),
            }
        )
        self.settings_file.touch(mode=0o600)
        self.settings_file.write_text("\n".join(_toml(settings.model_dump(mode="json"))) + "\n")
        return settings

    def clean_up(self) -> str:
        """Remove what nobody asked to keep; says what is left and where."""
        if self._keep:
            return f"kept: {self.root}"
        if self._named:
            shutil.rmtree(self.broker, ignore_errors=True)
            return f"kept, without the broker's data: {self.root}"
        shutil.rmtree(self.root, ignore_errors=True)
        return ""


def environment_of_children() -> Mapping[str, str]:
    """Ours without nextclick's variables: what they said is in the settings file already."""
    return {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        **{k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)},
    }


def free_port(preferred: int = 0) -> int:
    """A port of loopback that nobody listens on: the preferred one if it is free."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ConfigurationError("no port of 127.0.0.1 is free: end what takes them all")


def _unless_given(group: Group, **values: object) -> Group:
    """The group with these values, save for what the user has set."""
    given = group.model_fields_set
    return group.model_copy(update={k: v for k, v in values.items() if k not in given})


def _toml(tree: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """Lines of a TOML file: plain values first, then a table per group.

    A string of TOML may be written as JSON writes it, and so may numbers, booleans and lists of them.
    """
    for name, value in tree.items():
        if not isinstance(value, Mapping) and value is not None and f"{group}{name}" not in SECRETS:
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield f"\n[{group}{name}]"
            yield from _toml(value, f"{group}{name}.")
