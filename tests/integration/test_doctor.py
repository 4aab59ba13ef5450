"""The doctor finds what is wrong, says what to do, and its status tells scripts."""

import re

import pytest
from click.testing import CliRunner

from stream_app.adapters import kafka_topics, releases
from stream_app.cli.inspect import doctor
from stream_app.cli.options import settings_as_flags
from stream_app.settings import KafkaSettings, Settings
from stream_app.tools.doctor import Level, examine, exit_status
from tests.integration.processes import wait_until


@pytest.fixture
def settings(kafka, topics, tmp_path) -> Settings:
    return Settings(
        kafka=kafka.settings,
        topics=topics,
        registry=str(tmp_path / "registry"),
        click_log=str(tmp_path / "click-log"),
        data_dir=tmp_path / "worker",
    )


def problems(settings: Settings) -> dict[str, str]:
    return {f.about: f.message for f in examine(settings) if f.level is Level.PROBLEM}


def test_a_sound_system_has_no_problem_and_nothing_is_left_behind(settings, tmp_path):
    findings = list(examine(settings))
    assert [f for f in findings if f.level is Level.PROBLEM] == []
    assert exit_status(findings) == 0
    assert {f.about for f in findings} >= {"broker", "topics", "registry", "live model"}
    assert list(tmp_path.iterdir()) == []


def test_missing_topics_are_named_with_the_command(settings, kafka, make_topics):
    settings = settings.model_copy(update={"topics": make_topics.name()})
    found = [f for f in examine(settings) if f.level is Level.PROBLEM]
    assert len(found) == 7
    assert all("run `nextclick topics create`" in f.message for f in found)
    assert exit_status(found) == 2


def test_a_released_version_that_is_not_in_the_registry_is_found(settings):
    releases.promote(
        settings.kafka, settings.topics.releases, "20260101T000000Z-abcd", reason="test"
    )
    assert "has no version 20260101T000000Z-abcd" in problems(settings)["live model"]


def test_directories_that_cannot_be_used_are_found(settings, tmp_path):
    (tmp_path / "file").touch()
    settings = settings.model_copy(
        update={"data_dir": tmp_path / "file" / "worker", "click_log": str(tmp_path / "file")}
    )
    found = problems(settings)
    assert "is no directory: give another --data-dir" in found["data directory"]
    assert "is no directory: give another --click-log" in found["click log"]


def test_a_missing_broker_is_status_69_and_the_rest_is_still_checked(settings, monkeypatch):
    monkeypatch.setattr("stream_app.adapters.kafka_clients.CONNECT_TIMEOUT_MS", 500)
    settings = settings.model_copy(update={"kafka": KafkaSettings(bootstrap_servers="127.0.0.1:1")})
    findings = list(examine(settings))
    assert exit_status(findings) == 69
    assert "registry" in {f.about for f in findings}
    assert "topics" not in {f.about for f in findings}


def test_the_command_prints_a_line_per_finding_and_counts_the_problems(settings):
    with kafka_topics.admin_client(settings.kafka) as admin:
        admin.delete_topics([settings.topics.statistics])
        # The broker answers at once, and forgets the topic a little later.
        wait_until(
            "the topic is gone", lambda: settings.topics.statistics not in admin.list_topics()
        )
    result = CliRunner().invoke(doctor, settings_as_flags(settings), standalone_mode=False)
    assert result.return_value == 2
    assert re.search(r"^PROBLEM topics: .*statistics is missing", result.output, re.MULTILINE)
    assert result.output.endswith("1 problem found\n")
