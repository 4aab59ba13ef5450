"""`nextclick demo` as a user runs it, without torch: that takes minutes and is measured by hand."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil

from tests.integration.processes import wait_until


class RunningDemo:
    def __init__(self, directory: Path, *arguments: str) -> None:
        self.data_dir = directory / "data"
        self.log_file = directory / "demo.log"
        # No directory can be made there, so that no test ever downloads torch.
        no_torch = "/dev/null/training"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "stream_app", "demo", "--training-env", no_torch),
                    *("--data-dir", str(self.data_dir), *arguments),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=directory,
                env={k: v for k, v in os.environ.items() if not k.startswith("NEXTCLICK_")},
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def processes(self) -> list[psutil.Process]:
        """Everything that works on the demo's directory, the broker's guard and Java included."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.data_dir) in part for part in process.info["cmdline"] or ())
            and process.pid != self.process.pid
        ]

    def lines_with_hit_rates(self) -> int:
        return self.log.count("hit rate@20: statistics")

    @property
    def page(self) -> str | None:
        """The address that it printed."""
        found = re.search(
            r"to click and to look: (http://127\.0\.0\.1:\d+/)$", self.log, re.MULTILINE
        )
        return found[1] if found else None

    def child(self, command: str) -> psutil.Process | None:
        for process in self.processes():
            if command in process.info["cmdline"]:
                return process
        return None

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def test_every_click_is_accounted_for_though_the_worker_is_killed_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    """And asked to end (Ctrl-C, SIGTERM), it lets the worker finish and sums up."""
    report = tmp_path / "report.json"
    demo = RunningDemo(tmp_path, "--clicks-per-second", "120", "--report", str(report))
    try:
        wait_until("clicks are answered", demo.lines_with_hit_rates, 120)
        wait_until("its page is there", lambda: demo.page)
        with urllib.request.urlopen(f"{demo.page}v1/items?limit=5", timeout=30) as answer:
            shown = json.load(answer)["items"]
        assert len(shown) == 5
        assert all(item["title"] and item["category"] for item in shown), "the shop's own names"
        worker = demo.child("worker")
        assert worker is not None
        worker.kill()
        wait_until("the worker is restarted", lambda: "was started again" in demo.log, 60)
        lines = demo.lines_with_hit_rates()
        wait_until("it goes on", lambda: demo.lines_with_hit_rates() > lines + 1, 60)
        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.wait(90) == 0, demo.log
        assert demo.processes() == []
    finally:
        demo.kill()
    fields = json.loads(report.read_text())
    clicks = fields["clicks"]
    assert clicks["produced"] > 500
    assert clicks["recommended"] > 0.8 * clicks["produced"]
    assert clicks["produced"] == sum(
        clicks[fate] for fate in ("recommended", "dead_lettered", "ignored")
    )
    assert fields["restarts"] == 1
    assert "worker ended with status -9 and was started again" in demo.log
    assert "no trainings, the statistics go on answering: /dev/null/training" in demo.log
    assert fields["seconds_to_first_model"] is None
    [popularity] = fields["models"]
    assert popularity["version"] == "none"
    assert 0.01 < popularity["hit_rate_20"] < fields["best_possible_hit_rate_20"] < 1
    kept = {path.name for path in demo.data_dir.iterdir()}
    assert {"click-log", "logs", "nextclick.toml"} <= kept
    assert "broker" not in kept
