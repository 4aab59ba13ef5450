"""Images cannot be pulled everywhere, so these stand in for them, under the names of production.

The same programs in the same places, from Debian, PyPI and Maven Central: what is tried with them is our
own files.  Grafana can be had nowhere but as its image: something that answers on its port stands in.
"""

import os
import shutil
from pathlib import Path
from typing import Final

import yaml

from deploy.compose.check.machine import Docker, Packages, run
from stream_app.adapters.kafka_distribution import KAFKA_VERSION, distribution

PYTHON: Final = "python:3.11-slim-bookworm"
KAFKA: Final = f"apache/kafka:{KAFKA_VERSION}"
HERE: Final = Path(__file__).parent
DEBIAN: Final = (
    *(
        "base-files",
        "base-passwd",
        "bash",
        "busybox",
        "ca-certificates",
        "coreutils",
        "dash",
        "findutils",
    ),
    *(
        "grep",
        "hostname",
        "libc-bin",
        "libstdc++6",
        "passwd",
        "python3",
        "python3-pip",
        "python3-venv",
        "sed",
        "tar",
    ),
)
LINKS: Final = {
    "usr/bin/sh": "dash",
    "usr/local/bin/python": "/usr/bin/python3",
    "usr/local/bin/wget": "/bin/busybox",
}
NEWEST: Final = "unstable"
"""Debian's suite with the versions of Prometheus and Alertmanager that the stack names."""
CERTIFICATES: Final = "etc/ssl/certs/ca-certificates.crt"


def make_standins(docker: Docker, work: Path, compose_file: Path) -> dict[str, str]:
    """All images of the stack that are not our own.  Returns what each holds; cached between runs."""
    names = {
        name: s["image"] for name, s in yaml.safe_load(compose_file.read_text())["services"].items()
    }
    make = {PYTHON: _python, KAFKA: _kafka, names["grafana"]: _grafana}
    for image, build in make.items():
        if not docker.has_image(image):
            build(docker, work, image)
    for service, package in (
        ("prometheus", "prometheus"),
        ("alertmanager", "prometheus-alertmanager"),
    ):
        if not docker.has_image(names[service]):
            _monitor(docker, work, names[service], package, service)
    return {
        image: docker.docker(
            "image", "inspect", "--format", "{{.Config.Labels.holds}}", image
        ).strip()
        for image in (*make, names["prometheus"], names["alertmanager"])
    }


def _python(docker: Docker, work: Path, image: str) -> None:
    """Debian 12 with its own Python 3.11: packages unpacked, and the little that their scripts would do."""
    root = work / "bookworm"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    Packages(work, "bookworm").unpack(root, *DEBIAN, with_dependencies=True)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for link, target in LINKS.items():
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(target)
    changes = ['CMD ["python"]', "LABEL holds=Debian_12,_Python_3.11"]
    changes += [f"ENV {name}={value}" for name, value in _trust(root).items()]
    without = ("usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*")
    docker.import_root(root, image, changes, without=without)


def _trust(root: Path) -> dict[str, str]:
    """Let builds reach the package index as this machine does, if it has an authority of its own."""
    bundle = os.environ.get("SSL_CERT_FILE") or f"/{CERTIFICATES}"
    shutil.copyfile(bundle, root / CERTIFICATES)
    return {"SSL_CERT_FILE": f"/{CERTIFICATES}", "PIP_CERT": f"/{CERTIFICATES}"}


def _kafka(docker: Docker, work: Path, image: str) -> None:
    """Java and Kafka's jars, laid out and started as the official image does it."""
    context = work / "kafka"
    shutil.rmtree(context, ignore_errors=True)
    (context / "libs").mkdir(parents=True)
    kafka = distribution(print)
    for jar in kafka.class_path.split(":"):
        shutil.copy(jar, context / "libs")
    shutil.copytree(kafka.java.parent.parent, context / "java", symlinks=True)
    shutil.copytree(HERE / "kafka", context / "scripts")
    docker.docker(
        "build", "--network", "none", "-t", image, "-f", HERE / "kafka" / "Dockerfile", context
    )


def _monitor(docker: Docker, work: Path, image: str, package: str, program: str) -> None:
    context = work / program
    shutil.rmtree(context, ignore_errors=True)
    Packages(work, NEWEST).unpack(context / "root", package)
    version = run(context / "root/usr/bin" / package, "--version").splitlines()[0].split()[2]
    data = f"/{program}"
    (context / "Dockerfile").write_text(
        f"""FROM {PYTHON}
COPY root/usr/bin/{package} /bin/{program}
# Debian's Alertmanager reads its templates from there; upstream's has them inside.
COPY root/usr/share/prometheus /usr/share/prometheus
RUN install -d -o 65534 -g 65534 {data}
LABEL holds={program}_{version}
USER 65534
ENTRYPOINT ["/bin/{program}"]
"""
    )
    docker.docker("build", "--network", "none", "-t", image, context)


def _grafana(docker: Docker, work: Path, image: str) -> None:
    context = work / "grafana"
    shutil.rmtree(context, ignore_errors=True)
    (context / "www/api").mkdir(parents=True)
    (context / "www/api/health").write_text("no Grafana, only something on its port\n")
    (context / "Dockerfile").write_text(
        f"""FROM {PYTHON}
COPY www /www
RUN install -d -o 472 -g 0 /var/lib/grafana
LABEL holds=nothing_but_an_open_port
USER 472
CMD ["python", "-m", "http.server", "3000", "--directory", "/www"]
"""
    )
    docker.docker("build", "--network", "none", "-t", image, context)
