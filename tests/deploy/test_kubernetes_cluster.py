"""What holds between the resources: selectors, scaling within the partitions, networks, monitoring."""

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.kubernetes.render import HERE, is_generated
from stream_app.adapters.instruments import WorkerInstruments
from tests.deploy.manifests import OVERLAYS, Pod, Resource, pods, resources, resources_of

ROOT = Path(__file__).parents[2]
MONITORED = ("production", "object-store")
CLUSTER_WIDE = {"Namespace"}

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def selected(overlay: str, selector: dict[str, Any]) -> list[Pod]:
    """Pods that a label selector means."""

    def fits(pod: Pod) -> bool:
        return all(
            pod.labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()
        ) and all(
            one["operator"] == "In" and pod.labels.get(one["key"]) in one["values"]
            for one in selector.get("matchExpressions", ())
        )

    return [pod for pod in pods(overlay) if fits(pod)]


def components(found: list[Pod]) -> set[str]:
    return {pod.component for pod in found}


def partitions(overlay: str) -> int:
    (settings,) = resources_of(overlay, "ConfigMap")
    return int(settings["data"]["NEXTCLICK_TOPICS__PARTITIONS"])


def by_name(overlay: str, kind: str, name: str) -> Resource:
    (found,) = (one for one in resources_of(overlay, kind) if one["metadata"]["name"] == name)
    return found


@every_overlay
def test_everything_lies_in_the_namespace_under_a_name_of_its_own(overlay: str) -> None:
    names = set()
    for one in resources(overlay):
        if one["kind"] not in CLUSTER_WIDE and not is_generated(one):
            assert one["metadata"]["namespace"] == "nextclick", one["metadata"]
        names.add((one["kind"], one["metadata"]["name"]))
    assert len(names) == len(resources(overlay))


@every_overlay
def test_selectors_select(overlay: str) -> None:
    for owner in resources_of(overlay, "StatefulSet") + resources_of(overlay, "Deployment"):
        (pod,) = selected(overlay, owner["spec"]["selector"])
        assert pod.owner["metadata"]["name"] == owner["metadata"]["name"]
        for constraint in pod.spec.get("topologySpreadConstraints", ()):
            assert selected(overlay, constraint["labelSelector"]) == [pod]
    for service in resources_of(overlay, "Service"):
        (pod,) = selected(overlay, {"matchLabels": service["spec"]["selector"]})
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= pod.ports.keys()
    for budget in resources_of(overlay, "PodDisruptionBudget"):
        assert len(selected(overlay, budget["spec"]["selector"])) == 1
    for policy in resources_of(overlay, "NetworkPolicy"):
        assert selected(overlay, policy["spec"]["podSelector"])


@every_overlay
def test_nothing_goes_in_or_out_unless_a_policy_says_so(overlay: str) -> None:
    deny = by_name(overlay, "NetworkPolicy", "nextclick-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not deny.keys() & {"ingress", "egress"}
    assert selected(overlay, deny["podSelector"]) == pods(overlay)


def test_production_says_who_may_be_spoken_to() -> None:
    """Only names are looked up, only Kafka is reached, and only the ingress and Prometheus come in."""
    for policy in resources_of("production", "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            assert rule["to"]
            assert rule["ports"]
        for rule in policy["spec"].get("ingress", ()):
            assert all(one["namespaceSelector"]["matchLabels"] for one in rule["from"])
            assert rule["ports"]


@every_overlay
def test_there_are_never_more_workers_or_archives_than_partitions(overlay: str) -> None:
    for kind, name in (("StatefulSet", "nextclick-worker"), ("Deployment", "nextclick-archive")):
        replicas = by_name(overlay, kind, name)["spec"].get("replicas", 1)
        assert 1 <= replicas <= partitions(overlay)
    for scaler in resources_of(overlay, "HorizontalPodAutoscaler"):
        if scaler["spec"]["scaleTargetRef"]["kind"] == "StatefulSet":
            assert scaler["spec"]["maxReplicas"] <= partitions(overlay)


def test_production_has_three_workers_or_more() -> None:
    scaler = by_name("production", "HorizontalPodAutoscaler", "nextclick-worker")
    assert scaler["spec"]["minReplicas"] >= 3


@every_overlay
def test_an_apply_does_not_undo_what_the_autoscaler_did(overlay: str) -> None:
    for scaler in resources_of(overlay, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in by_name(overlay, target["kind"], target["name"])["spec"]


@every_overlay
def test_there_is_one_aggregator_at_a_time(overlay: str) -> None:
    spec = by_name(overlay, "Deployment", "nextclick-statistics")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


@every_overlay
def test_a_retraining_has_ended_before_the_next_one(overlay: str) -> None:
    spec = by_name(overlay, "CronJob", "nextclick-retrain")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] > 100  # below, a controller that is slow misses it


def test_the_autoscalers_metric_is_one_that_workers_have_and_the_adapter_tells() -> None:
    scaler = by_name("production", "HorizontalPodAutoscaler", "nextclick-worker")
    (lag,) = (
        one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"] if one["type"] == "Pods"
    )
    registry = CollectorRegistry()
    WorkerInstruments(registry)
    assert lag in {family.name for family in registry.collect()}
    adapter = HERE / "components" / "autoscaling" / "prometheus-adapter.yaml"
    (rule,) = yaml.safe_load(adapter.read_text())["rules"]["custom"]
    assert rule["name"]["as"] == lag
    assert promql_parser.parse(rule["seriesQuery"]).name == lag
    query = (
        rule["metricsQuery"]
        .replace("<<.Series>>", lag)
        .replace("<<.LabelMatchers>>", 'namespace="nextclick",pod=~"nextclick-worker-0"')
        .replace("<<.GroupBy>>", "pod")
    )
    promql_parser.parse(query)


@pytest.mark.parametrize("overlay", MONITORED)
def test_every_process_that_has_metrics_is_scraped_once(overlay: str) -> None:
    (by_pod,) = resources_of(overlay, "PodMonitor")
    (by_service,) = resources_of(overlay, "ServiceMonitor")
    scraped = components(selected(overlay, by_pod["spec"]["selector"]))
    services = [
        one
        for one in resources_of(overlay, "Service")
        if by_service["spec"]["selector"]["matchLabels"].items()
        <= one["metadata"]["labels"].items()
    ]
    (service,) = services
    assert {one["port"] for one in by_service["spec"]["endpoints"]} <= {
        one["name"] for one in service["spec"]["ports"]
    }
    through_services = components(selected(overlay, {"matchLabels": service["spec"]["selector"]}))
    assert not scraped & through_services
    assert scraped | through_services == {
        pod.component for pod in pods(overlay) if "metrics" in pod.ports
    }


def test_jobs_are_called_as_in_prometheus_yml() -> None:
    """Alerts go by these names."""
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    known = {one["job_name"] for one in config["scrape_configs"]}
    (monitor,) = resources_of("production", "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (job,) = (one for one in endpoint["relabelings"] if one["targetLabel"] == "job")
    for pod in selected("production", monitor["spec"]["selector"]):
        assert job["replacement"].replace("$1", pod.component) in known
    (monitor,) = resources_of("production", "ServiceMonitor")
    assert by_name("production", "Service", "nextclick-gateway")["metadata"]["name"] in known
    assert "jobLabel" not in monitor["spec"]


def test_every_dashboard_goes_into_the_cluster() -> None:
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    generated = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [file for one in generated["configMapGenerator"] for file in one["files"]]
    assert sorted(files) == sorted(path.name for path in folder.glob("*.json"))
    assert all(
        (folder / file).stat().st_size < 1_000_000 for file in files
    )  # a ConfigMap holds 1 MiB
    assert generated["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}


def test_the_alert_of_the_training_job_allows_one_failure_and_has_a_page() -> None:
    rule = by_name("production", "PrometheusRule", "nextclick-jobs")
    (alert,) = rule["spec"]["groups"][0]["rules"]
    promql_parser.parse(alert["expr"])
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"## {alert['alert']}\n" in page
    assert alert["annotations"]["runbook_url"] == f"docs/kubernetes.md#{alert['alert'].lower()}"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (package prometheus)")
def test_the_alert_of_the_training_job_fires_as_its_rule_test_says(tmp_path: Path) -> None:
    rule = by_name("production", "PrometheusRule", "nextclick-jobs")
    (tmp_path / "retrain-job.yml").write_text(yaml.safe_dump(rule["spec"]))
    test = shutil.copy(Path(__file__).with_name("retrain_job_rule_test.yml"), tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", str(test)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@every_overlay
def test_images_are_of_this_version(overlay: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {pod.container["image"] for pod in pods(overlay)}
    assert images == {f"nextclick-serving:{version}", f"nextclick-training:{version}"}
