"""The images: what goes into them, and the healthcheck that runs in them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from stream_app.adapters import http_endpoints

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy/images").glob("*.Dockerfile"))


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_an_image_copies_is_there_and_reaches_the_build(file: Path) -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    for line in re.findall(r"^COPY (?!--from)(.+)$", file.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert (
                f"!{source}" in allowed
                or f"!{Path(source).parent}/*{Path(source).suffix}" in allowed
            )


def test_nothing_that_trains_goes_into_the_serving_image() -> None:
    text = (ROOT / "deploy/images/serving.Dockerfile").read_text()
    copied = " ".join(re.findall(r"^COPY (.+)$", text, re.MULTILINE))
    assert "requirements/serving.txt" in copied
    assert not re.search(r"\b(models|export|training\.txt)\b", copied)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_base_images_are_pinned_and_the_installer_is_the_makefiles(file: Path) -> None:
    bases = re.findall(r"^FROM (\S+)", file.read_text(), re.MULTILINE)
    assert all(re.fullmatch(r"python:\d+\.\d+-slim-\w+", base) for base in bases)
    version = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version is not None
    assert f"uv=={version[1]}" in file.read_text()


@pytest.mark.parametrize(
    ("ready", "status", "said"), [(True, 0, "partitions 0 and 1"), (False, 1, "restoring")]
)
def test_the_healthcheck_is_what_readyz_says(ready: bool, status: int, said: str) -> None:
    server = http_endpoints.serve(
        "127.0.0.1", 0, registry=CollectorRegistry(), is_ready=lambda: (ready, said)
    )
    try:
        asked = _ask_ready(str(server.port))
    finally:
        server.close()
    assert asked.returncode == status
    assert said in asked.stdout


def test_the_healthcheck_fails_where_nobody_listens() -> None:
    asked = _ask_ready("1")
    assert asked.returncode == 1
    assert "port 1" in asked.stdout
    assert asked.stderr == ""


def _ask_ready(port: str) -> subprocess.CompletedProcess[str]:
    """As the container runs it: no site packages, nothing from the environment but the port."""
    return subprocess.run(
        [sys.executable, "-IS", ROOT / "deploy/images/ready.py"],
        env={"NEXTCLICK_METRICS__PORT": port},
        capture_output=True,
        text=True,
        check=False,
    )
