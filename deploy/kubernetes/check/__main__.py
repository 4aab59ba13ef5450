"""`make kubernetes-check`: every overlay through a real API server, by server-side dry run.

Schemas tell of misspelt fields; an API server also knows ranges, defaults, what fits together, and
Pod Security, and its answer is the one that counts.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from deploy.kubernetes.check.cluster import ClusterError, Kubectl, running_cluster
from deploy.kubernetes.check.tools import ToolsError, build_tools
from deploy.kubernetes.render import HERE, OVERLAYS

APPLY: Final = ("apply", "--server-side", "--dry-run=server", "--validate=strict")
TAKEN: Final = "serverside-applied (server dry run)"
UNKNOWN: Final = "field not declared in schema"

Resource: TypeAlias = dict[str, Any]
Place: TypeAlias = tuple[str | int, ...]


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


@dataclass(frozen=True, slots=True)
class Break:
    """A mistake that the server must refuse, and a word of the reason it must give."""

    what: str
    resource: Resource
    place: Place
    value: Any
    reason: str

    def broken(self) -> Resource:
        whole = copy.deepcopy(self.resource)
        at: Any = whole
        for step in self.place[:-1]:
            at = at[step]
        at[self.place[-1]] = self.value
        return whole


def check(kubectl: Kubectl, custom_resources: list[Path]) -> list[str]:
    """What a Kubernetes API server finds wrong; prints what it took."""
    for definition in custom_resources:
        kubectl.must("apply", "--server-side", "-f", str(definition))
    kubectl.must("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    version = json.loads(kubectl.must("get", "--raw", "/version"))["gitVersion"]
    problems = []
    overlays = {}
    for overlay in OVERLAYS:
        text = kubectl.must("kustomize", str(HERE / "overlays" / overlay))
        resources = [one for one in yaml.safe_load_all(text) if one is not None]
        overlays[overlay] = resources
        # For real: a dry run leaves no namespace behind for what lies in it, nor what Pod Security goes by.
        spaces = [one for one in resources if one["kind"] == "Namespace"]
        kubectl.must("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(spaces))
        told, found = [], []
        for what, given in (("resources", resources), ("pods", pods(resources))):
            taken, said = applied(kubectl, yaml.safe_dump_all(given))
            if not said and taken != len(given):
                said = [f"{len(given)} {what} were given, and {taken} taken"]
            found += said
            told.append(f"{taken} of {len(given)} {what}")
        problems += [f"overlays/{overlay}: {one}" for one in found]
        told.append(f"{len(found)} problems" if found else "without a warning")
        print(f"overlays/{overlay}: {', '.join(told)} ({version})")
    return problems + blind_spots(kubectl, breaks(overlays["production"]))


def pods(resources: list[Resource]) -> list[Resource]:
    """One of each workload, as its controller would make it: only of a pod itself does Pod Security decide."""
    made = []
    for one in resources:
        if one["kind"] not in ("StatefulSet", "Deployment", "Job", "CronJob"):
            continue
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
        pod = copy.deepcopy(spec["template"])
        pod |= {"apiVersion": "v1", "kind": "Pod"}
        name, namespace = one["metadata"]["name"], one["metadata"]["namespace"]
        pod["metadata"] |= {"name": f"{name}-0", "namespace": namespace}
        for claim in spec.get("volumeClaimTemplates", ()):
            volume = claim["metadata"]["name"]
            claimed = {"claimName": f"{volume}-{name}-0"}
            pod["spec"].setdefault("volumes", []).append(
                {"name": volume, "persistentVolumeClaim": claimed}
            )
        made.append(pod)
    return made


def applied(kubectl: Kubectl, manifests: str) -> tuple[int, list[str]]:
    """How many were taken, and errors.

    Warnings count as errors: of a Deployment whose pods it will refuse, a server only warns.
    """
    done = kubectl.run(*APPLY, "-f", "-", given=manifests)
    taken = sum(line.endswith(TAKEN) for line in done.stdout.splitlines())
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode and not lines:
        lines = [f"kubectl ended with status {done.returncode}"]
    return taken, lines


def breaks(resources: list[Resource]) -> list[Break]:
    """One mistake of each kind that the server is asked for."""
    (worker,) = (one for one in resources if one["kind"] == "StatefulSet")
    (monitor,) = (one for one in resources if one["kind"] == "PodMonitor")
    (pod_of_worker,) = pods([worker])
    pod: Place = ("spec", "template", "spec")
    container: Place = (*pod, "containers", 0)
    endpoint: Place = ("spec", "podMetricsEndpoints", 0)
    return [
        # In full: privileged and no escalation contradict each other, which is refused before Pod Security.
        Break(
            "a privileged pod",
            pod_of_worker,
            ("spec", "containers", 0, "securityContext"),
            {"privileged": True},
            'violates PodSecurity "restricted:latest": privileged ',
        ),
        Break(
            "a pod on the host's network", worker, (*pod, "hostNetwork"), True, "hostNetwork=true"
        ),
        Break("a misspelt field", worker, ("spec", "podManagmentPolicy"), "Parallel", UNKNOWN),
        Break(
            "a value out of its range",
            worker,
            (*container, "startupProbe", "failureThreshold"),
            -1,
            "must be greater than or equal to 0",
        ),
        Break(
            "a mount of no volume",
            worker,
            (*container, "volumeMounts", 0, "name"),
            "nothing",
            "Not found",
        ),
        Break(
            "the operator's field, misspelt", monitor, (*endpoint, "scrapeTimeOut"), "1s", UNKNOWN
        ),
        Break(
            "no duration to the operator",
            monitor,
            (*endpoint, "interval"),
            "often",
            "in body should match",
        ),
    ]


def blind_spots(kubectl: Kubectl, made: list[Break]) -> list[str]:
    """Broken on purpose, and not refused for it: then what was taken means nothing."""
    missed = []
    for one in made:
        _, said = applied(kubectl, yaml.safe_dump(one.broken()))
        if not any(one.reason in line for line in said):
            missed.append(f"the check is blind: {one.what} was not refused for that, but: {said}")
    print(f"broken on purpose: {len(made) - len(missed)} of {len(made)} refused")
    return missed


if __name__ == "__main__":
    sys.exit(main())
