"""deploy/kubernetes against the schemas of Kubernetes and of prometheus-operator; what is generated is fresh."""

import shutil
import subprocess
from typing import Any

import cloudcoil.models.prometheus_operator.v1 as prometheus_operator
import kubernetes_validate
import pytest

from deploy.kubernetes import render
from tests.deploy.manifests import OVERLAYS, Resource, resources

OLDEST = "1.30"
"""Of the releases we say we run on: the first whose `preStop` can sleep without a flag."""
VERSIONS = (OLDEST, kubernetes_validate.latest_version().rpartition(".")[0])
OPERATOR = "monitoring.coreos.com/v1"


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_resource_fits_the_schema_of_its_kind(overlay: str, version: str) -> None:
    for one in resources(overlay):
        if one["apiVersion"] == OPERATOR:
            assert lost_in_the_model(one) == []
        else:
            kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_of_either_api_is_found() -> None:
    (worker,) = (one for one in resources("small") if one["kind"] == "StatefulSet")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**worker, "spec": {**worker["spec"], "podManagmentPolicy": "Parallel"}},
            OLDEST,
            strict=True,
        )
    (monitor,) = (one for one in resources("production") if one["kind"] == "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    misspelt = {**monitor["spec"], "podMetricsEndpoints": [{**endpoint, "scrapeTimeOut": "1s"}]}
    assert lost_in_the_model({**monitor, "spec": misspelt}) == [
        "spec.podMetricsEndpoints.0.scrapeTimeOut"
    ]


def lost_in_the_model(resource: Resource) -> list[str]:
    """Fields that the operator's model of this kind does not know; it refuses wrong values itself."""
    model = getattr(prometheus_operator, resource["kind"])
    back = model.model_validate(resource).model_dump(mode="json", by_alias=True, exclude_unset=True)
    return [path for path in _paths(resource) if path not in set(_paths(back))]


def _paths(tree: Any, prefix: str = "") -> list[str]:
    if isinstance(tree, dict):
        branches = list(tree.items())
    elif isinstance(tree, list):
        branches = list(enumerate(tree))
    else:
        return []
    found = []
    for name, value in branches:
        found += [f"{prefix}{name}", *_paths(value, f"{prefix}{name}.")]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_was_rendered_is_not_out_of_date(overlay: str) -> None:
    """Told by a digest of the sources, so that it shows without kustomize as well."""
    head = (render.RENDERED / f"{overlay}.yaml").read_text()[:1000]
    assert f"Made from {render.sources_digest()}\n" in head, (
        "deploy/kubernetes has changed: make kubernetes-render"
    )


@pytest.mark.skipif(
    render.kustomize_command() is None,
    reason="needs kustomize or kubectl (Go's `sigs.k8s.io/kustomize/kustomize/v5`, Debian's kustomize)",
)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_was_rendered_is_what_kustomize_makes(overlay: str) -> None:
    assert render.render(overlay) == (render.RENDERED / f"{overlay}.yaml").read_text()


def test_the_alerts_in_the_cluster_are_those_of_prometheus() -> None:
    assert render.PROMETHEUS_RULE.read_text() == render.prometheus_rule(), (
        "deploy/prometheus/rules has changed: make kubernetes-render"
    )


def test_rendering_without_kustomize_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(render.KustomizeMissingError, match="go install"):
        render.build("small")


def test_a_kustomization_that_is_wrong_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "kustomize_command", lambda: ["false"])
    with pytest.raises(subprocess.CalledProcessError):
        render.build("small")
