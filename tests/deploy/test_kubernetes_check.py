"""What `make kubernetes-check` makes of an API server's answers; the server itself is another matter."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.kubernetes.check.__main__ import (
    TAKEN,
    Break,
    applied,
    blind_spots,
    breaks,
    check,
    pods,
)
from deploy.kubernetes.check.cluster import ClusterError, Kubectl
from tests.deploy.manifests import resources

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: { name: nextclick }\n"


class Server(Kubectl):
    """Says the same to each apply."""

    def __init__(self, status: int = 0, out: str = "", err: str = "") -> None:
        super().__init__(Path("kubectl"), "https://127.0.0.1:1", "token", Path("/nowhere"))
        self.answer = (status, out, err)

    def run(self, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        if "--dry-run=server" in arguments:
            status, out, err = self.answer
            return subprocess.CompletedProcess(arguments, status, out, err)
        if arguments[0] == "kustomize":
            everything = yaml.safe_dump_all(resources("production"))
            return subprocess.CompletedProcess(arguments, 0, everything, "")
        return subprocess.CompletedProcess(arguments, 0, '{"gitVersion": "v1.99.0"}', "")


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (Server(out=f"namespace/nextclick {TAKEN}\n"), (1, [])),
        (
            Server(err="Warning: would violate PodSecurity\n\n"),
            (0, ["Warning: would violate PodSecurity"]),
        ),
        (Server(status=1), (0, ["kubectl ended with status 1"])),
    ],
)
def test_a_warning_is_an_error(server: Server, expected: tuple[int, list[str]]) -> None:
    assert applied(server, NAMESPACE) == expected


def test_what_was_not_taken_is_a_problem_although_nothing_was_said() -> None:
    found = check(Server(), [])
    assert (
        f"overlays/production: {len(resources('production'))} resources were given, and 0 taken"
        in found
    )
    assert "overlays/production: 8 pods were given, and 0 taken" in found


@pytest.mark.parametrize("overlay", ["small", "production", "object-store"])
def test_each_workload_has_a_pod_whose_mounts_have_volumes(overlay: str) -> None:
    made = pods(resources(overlay))
    assert sorted(one["metadata"]["labels"]["app.kubernetes.io/component"] for one in made) == [
        *("archive", "compact", "gateway", "refresh", "retrain"),
        *("statistics", "topics", "worker"),
    ]
    for pod in made:
        assert pod["metadata"]["namespace"] == "nextclick"
        volumes = {one["name"] for one in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        assert {one["name"] for one in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("answer", ["", "Unable to connect to the server"])
def test_only_a_refusal_for_its_reason_counts(answer: str) -> None:
    made = breaks(resources("production"))
    missed = blind_spots(Server(status=1 if answer else 0, err=answer), made)
    assert len(missed) == len(made)
    assert all(answer in one for one in missed)
    reasons = "\n".join(one.reason for one in made)
    assert blind_spots(Server(status=1, err=reasons), made) == []


@pytest.mark.parametrize("one", breaks(resources("production")), ids=lambda one: one.what)
def test_what_is_broken_on_purpose_is_broken_in_one_place(one: Break) -> None:
    before: Any = one.resource
    after: Any = one.broken()
    assert after != before
    for step in one.place[:-1]:
        before, after = before[step], after[step]
    assert after == {**before, one.place[-1]: one.value}


def test_a_command_that_fails_says_what_kubectl_said() -> None:
    kubectl = Server(status=1, err="refused")
    with pytest.raises(ClusterError, match="refused"):
        kubectl.must("apply", "--dry-run=server")
