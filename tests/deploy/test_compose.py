"""docker-compose.yml and the files beside it, without Docker: what `make compose-check` tries for real."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Context

from deploy.compose.certificates import BROKER_UID, NEXTCLICK_UID
from stream_app.adapters.kafka_distribution import KAFKA_VERSION
from stream_app.cli import program
from stream_app.settings import ENVIRONMENT_PREFIX, Settings, known_names, load_settings

ROOT = Path(__file__).parents[2]
OVERRIDES = sorted((ROOT / "deploy/compose").glob("*.yml"))
FILES = [ROOT / "docker-compose.yml", *OVERRIDES]
JOBS = {"topics"}
"""Ends by itself, so that nothing can be asked of it."""
PORTLESS = {"simulate"}
"""A tool for looking, without a port to ask on."""
WITHOUT_SETTINGS = {"kafka", "prometheus", "alertmanager", "grafana"}
VARIABLE = re.compile(r"\$\{(\w+)")


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tags."""


ComposeLoader.add_constructor("!reset", lambda *_: None)


def read(file: Path) -> dict[str, Any]:
    loaded = yaml.load(file.read_text(), ComposeLoader)  # a SafeLoader
    assert isinstance(loaded, dict)
    return loaded


STACK = read(FILES[0])
SERVICES: Mapping[str, dict[str, Any]] = STACK["services"]


def environments(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """NEXTCLICK_* of each service, as the container gets it with nothing in .env."""
    for name, service in read(file)["services"].items():
        if service and "environment" in service:
            ours = {
                k: v for k, v in service["environment"].items() if k.startswith(ENVIRONMENT_PREFIX)
            }
            yield (
                name,
                {k: re.sub(r"\$\{\w+(?::[-?](.*))?\}", r"\1", str(v)) for k, v in ours.items()},
            )


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_locked_down_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    uid = int(service["user"].partition(":")[0])
    assert uid > 0
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert 0 < service["cpus"] <= 2
    assert 0 < service["pids_limit"] <= 1000
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("on-failure" if name in JOBS else "unless-stopped")
    assert name in JOBS or re.fullmatch(r"\d+s", service["stop_grace_period"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_asked_whether_it_is_ready(name: str) -> None:
    if name in JOBS | PORTLESS:
        # Not even one that is disabled: `up --wait` ends with status 1 at such a container.
        assert "healthcheck" not in SERVICES[name]
        return
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} < check.keys()
    if name not in WITHOUT_SETTINGS:
        assert check["test"][-1] == "/opt/nextclick/ready.py"


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if image.startswith("nextclick-"):
        assert tag == version
    elif image == "apache/kafka":
        assert tag == KAFKA_VERSION
    else:
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)


def test_ports_are_on_loopback_and_a_scaled_service_has_none() -> None:
    for name, service in SERVICES.items():
        assert "container_name" not in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
    assert "ports" not in SERVICES["worker"]
    assert "NEXTCLICK_SHARED_DATA_DIR" in SERVICES["worker"]["environment"]
    assert "NEXTCLICK_DATA_DIR" not in SERVICES["worker"]["environment"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_variable_of_ours_is_a_setting_with_a_value_that_fits(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no nextclick.toml is
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    found = 0
    for name, environment in environments(file):
        if "NEXTCLICK_KAFKA__SASL_PASSWORD_FILE" in environment:
            environment["NEXTCLICK_KAFKA__SASL_PASSWORD_FILE"] = str(secret)
        load_settings({}, environment=environment)  # raises for what it does not know
        found += len(environment)
        assert environment or name in WITHOUT_SETTINGS
    assert found > 5


def test_the_example_shows_defaults_of_real_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = dict(
        re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    ours = {name: value for name, value in shown.items() if name.startswith(ENVIRONMENT_PREFIX)}
    assert len(ours) > 3
    by_the_stack = "NEXTCLICK_GATEWAY__HOSTS"
    assert ours.pop(by_the_stack) in FILES[0].read_text()
    assert load_settings({}, environment=ours) == Settings()
    uncommented = [
        line for line in (ROOT / ".env.example").read_text().splitlines() if line and line[0] != "#"
    ]
    assert uncommented == []


def test_every_variable_of_the_stack_is_told_in_the_example_with_its_default() -> None:
    shown = dict(
        re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", FILES[0].read_text()):
        assert shown[name] == default, name
    for file in OVERRIDES:
        for name in VARIABLE.findall(file.read_text()):
            assert name in shown or name in file.read_text().partition("services:")[0], name


def test_no_variable_of_the_stack_looks_like_a_setting() -> None:
    """.env goes to the containers as it is, and nextclick refuses settings that it does not know."""
    names = {ENVIRONMENT_PREFIX + name.upper().replace(".", "__") for name in known_names()}
    for file in FILES:
        for name in VARIABLE.findall(file.read_text()):
            assert not name.startswith(ENVIRONMENT_PREFIX) or name in names


def test_every_command_is_one_of_ours_with_flags_that_exist() -> None:
    context = Context(program)
    for name, service in SERVICES.items():
        if not service["image"].startswith("nextclick-"):
            continue
        command = program.get_command(context, service["command"][0])
        assert command is not None, name
        flags = {option for parameter in command.params for option in parameter.opts}
        told = {word for word in service["command"] if word.startswith("--")}
        assert told <= flags, name


def test_what_is_mounted_is_there_and_every_volume_is_declared() -> None:
    used = set()
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_dir(), source
                assert mount.endswith(":ro"), mount
            else:
                used.add(source)
    assert used == set(STACK["volumes"])


@pytest.mark.parametrize("file", OVERRIDES, ids=lambda file: file.name)
def test_an_override_reaches_every_process_of_ours(file: Path) -> None:
    """A service added to the stack and forgotten there would speak to another Kafka, or not at all."""
    ours = {name for name, s in SERVICES.items() if s["image"].startswith("nextclick-")}
    assert {name for name, service in read(file)["services"].items() if service} - {"kafka"} == ours


def test_prometheus_scrapes_services_that_are_there_on_their_port() -> None:
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    port = STACK["x-program"]["environment"]["NEXTCLICK_METRICS__PORT"]
    scraped = set()
    for job in config["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            scraped |= {(name, str(found["port"])) for name in found["names"]}
        for static in job.get("static_configs", ()):
            scraped |= {tuple(target.split(":")) for target in static["targets"]}
    ours = {
        (n, p) for n, p in scraped if SERVICES.get(n, {}).get("image", "").startswith("nextclick-")
    }
    with_metrics = (
        {n for n, s in SERVICES.items() if s["image"].startswith("nextclick-")} - JOBS - PORTLESS
    )
    assert ours == {(name, port) for name in with_metrics}


def test_users_of_containers_files_and_images_are_the_same() -> None:
    ours = {s["user"] for s in SERVICES.values() if s["image"].startswith("nextclick-")}
    assert ours == {f"{NEXTCLICK_UID}:{NEXTCLICK_UID}"}
    assert SERVICES["kafka"]["user"].startswith(f"{BROKER_UID}:")
    for file in (ROOT / "deploy/images").glob("*.Dockerfile"):
        assert f"--uid {NEXTCLICK_UID}" in file.read_text()
        assert f"\nUSER {NEXTCLICK_UID}:{NEXTCLICK_UID}\n" in file.read_text()
