"""`make kubernetes-check`: every overlay through a real API server, by server-side dry run.

Schemas tell of misspelt fields; an API server also knows ranges, defaults, what fits together, and
Pod Security, and its answer is the one that counts.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.kubernetes.check.cluster import ClusterError, Kubectl, running_cluster
from deploy.kubernetes.check.tools import KUBERNETES, ToolsError, build_tools
from deploy.kubernetes.render import HERE, OVERLAYS

APPLY: Final = ("apply", "--server-side", "--dry-run=server", "--validate=strict")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make kubernetes-check", description=__doc__)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument(
        "--folder",
        type=Path,
        default=cache / "nextclick-kubernetes-check",
        help="Where the API server is built and kept (3 GB) [%(default)s].",
    )
    folder: Path = parser.parse_args().folder.absolute()
    try:
        tools = build_tools(folder)
        with (
            tempfile.TemporaryDirectory(prefix="kubernetes-check-") as scratch,
            running_cluster(tools, Path(scratch)) as kubectl,
        ):
            problems = check(kubectl, tools.custom_resources)
    except (ToolsError, ClusterError) as error:
        print(error, file=sys.stderr)
        return 69
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def check(kubectl: Kubectl, custom_resources: list[Path]) -> list[str]:
    """What a Kubernetes API server finds wrong; prints what it took."""
    for definition in custom_resources:
        kubectl.must("apply", "--server-side", "-f", str(definition))
    kubectl.must("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    kubectl.must("apply", "-f", str(HERE / "overlays" / "production" / "namespace.yaml"))
    problems = []
    for overlay in OVERLAYS:
        text = kubectl.must("kustomize", str(HERE / "overlays" / overlay))
        found = refusals(kubectl, text)
        problems += [f"overlays/{overlay}: {one}" for one in found]
        resources = sum(one is not None for one in yaml.safe_load_all(text))
        told = f"{len(found)} problems" if found else "all taken without a warning"
        print(f"overlays/{overlay}: {resources} resources, {told} (Kubernetes {KUBERNETES})")
    return problems + blind_spots(kubectl)


def refusals(kubectl: Kubectl, manifests: str) -> list[str]:
    """Errors, and warnings as well: of a Deployment whose pods it will refuse, a server only warns."""
    done = kubectl.run(*APPLY, "-f", "-", given=manifests)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines or ([f"kubectl ended with status {done.returncode}"] if done.returncode else [])


def blind_spots(kubectl: Kubectl) -> list[str]:
    """Broken on purpose, and not refused: then what was taken above means nothing."""
    text = kubectl.must("kustomize", str(HERE / "overlays" / "small"))
    (worker,) = (one for one in yaml.safe_load_all(text) if one["kind"] == "StatefulSet")
    pod: dict[str, Any] = worker["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probe = container["startupProbe"]
    breaks: dict[str, tuple[dict[str, Any], str, Any]] = {
        "a privileged container": (container["securityContext"], "privileged", True),
        "a pod on the host's network": (pod, "hostNetwork", True),
        "a misspelt field": (worker["spec"], "podManagmentPolicy", "Parallel"),
        "a value out of its range": (probe, "failureThreshold", -1),
        "a mount of no volume": (container["volumeMounts"][0], "name", "nothing"),
    }
    missed = []
    for what, (place, name, value) in breaks.items():
        before = place.get(name)
        place[name] = value
        if not refusals(kubectl, yaml.safe_dump(worker)):
            missed.append(f"the check is blind: {what} was not refused")
        if before is None:
            del place[name]
        else:
            place[name] = before
    print(f"broken on purpose: {len(breaks) - len(missed)} of {len(breaks)} refused")
    return missed


if __name__ == "__main__":
    sys.exit(main())
