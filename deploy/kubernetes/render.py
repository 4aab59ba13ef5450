"""What is written by a program in deploy/kubernetes: the PrometheusRule, and what the overlays come to.

`python -m deploy.kubernetes.render` (`make kubernetes-render`) after any change here or in deploy/prometheus/rules.
The rendered overlays are kept, so that a change shows what it does to the cluster, and so that
they are validated where there is no kustomize.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).parent
RULES: Final = HERE.parent / "prometheus" / "rules"
PROMETHEUS_RULE: Final = HERE / "components" / "monitoring" / "prometheus-rule.yaml"
RENDERED: Final = HERE / "rendered"
OVERLAYS: Final = ("small", "production", "object-store")
_WRITTEN: Final = "Written by `python -m deploy.kubernetes.render`; do not edit."


class KustomizeMissingError(Exception):
    """Neither `kustomize` nor `kubectl` is installed."""


def main() -> int:
    PROMETHEUS_RULE.write_text(prometheus_rule())
    try:
        for overlay in OVERLAYS:
            (RENDERED / f"{overlay}.yaml").write_text(render(overlay))
    except KustomizeMissingError as error:
        print(error, file=sys.stderr)
        return 69
    return 0


def prometheus_rule() -> str:
    """deploy/prometheus/rules as one resource of prometheus-operator."""
    groups: list[Any] = []
    for file in sorted(RULES.glob("*.yml")):
        groups += yaml.safe_load(file.read_text())["groups"]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "nextclick"},
        "spec": {"groups": groups},
    }
    body = yaml.safe_dump(resource, sort_keys=False, allow_unicode=True, width=110)
    return f"# The rules of deploy/prometheus/rules.  {_WRITTEN}\n{body}"


def render(overlay: str) -> str:
    """An overlay as the cluster gets it, but for what is generated.  Raises `KustomizeMissingError`."""
    resources = [one for one in build(overlay) if not is_generated(one)]
    body = yaml.safe_dump_all(resources, sort_keys=False, allow_unicode=True, width=110)
    return f"# overlays/{overlay}.  {_WRITTEN}\n# Made from {sources_digest()}\n{body}"


def build(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay, by kustomize.  Raises `KustomizeMissingError`."""
    command = kustomize_command()
    if command is None:
        raise KustomizeMissingError(
            "neither kustomize nor kubectl is installed: get one of them "
            "(`go install sigs.k8s.io/kustomize/kustomize/v5@v5.6.0`, or Debian's package kustomize)"
        )
    done = subprocess.run(
        [*command, str(HERE / "overlays" / overlay)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def kustomize_command() -> list[str] | None:
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    return None


def is_generated(resource: dict[str, Any]) -> bool:
    """Dashboards and alerts: large, and kept elsewhere, where they change without us."""
    metadata = resource["metadata"]
    return "grafana_dashboard" in metadata.get("labels", {}) or (
        resource["kind"] == "PrometheusRule" and metadata["name"] == "nextclick"
    )


def sources() -> Iterator[Path]:
    """The files that decide what is rendered."""
    for folder in ("base", "components", "overlays"):
        for path in sorted((HERE / folder).rglob("*")):
            if path.is_file() and path != PROMETHEUS_RULE:
                yield path


def sources_digest() -> str:
    """Tells, without kustomize, whether what was rendered is out of date."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(HERE)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"


if __name__ == "__main__":
    sys.exit(main())
