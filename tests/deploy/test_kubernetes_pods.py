"""What runs in the cluster: commands and settings that exist, restricted pods, probes, places to write."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import stream_app.services.worker as worker_service
from stream_app.cli import program
from stream_app.settings import Settings, load_settings
from tests.deploy.manifests import GIVEN_SECRETS, OVERLAYS, Pod, pods, resources, resources_of

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def settings_of(pod: Pod, overlay: str) -> Settings:
    environment = pod.environment(overlay)
    return load_settings(
        {}, environment={k: v for k, v in environment.items() if k.startswith("NEXTCLICK_")}
    )


def pod_of(overlay: str, component: str) -> Pod:
    (found,) = (pod for pod in pods(overlay) if pod.component == component)
    return found


@every_overlay
def test_each_pod_starts_a_command_that_there_is(overlay: str) -> None:
    for pod in pods(overlay):
        arguments = pod.container["args"]
        told = CliRunner().invoke(program, [*arguments, "--help"])
        assert told.exit_code == 0, arguments
        command = next(word for word in reversed(arguments) if not word.startswith("-"))
        assert f" {command} [OPTIONS]" in told.output


@every_overlay
def test_each_pods_environment_is_made_of_settings_that_there_are(overlay: str) -> None:
    for pod in pods(overlay):
        settings = settings_of(pod, overlay)
        assert settings.metrics.host == "0.0.0.0"
        if "metrics" in pod.ports:
            assert settings.metrics.port == pod.ports["metrics"]
        if "http" in pod.ports:
            assert settings.gateway.port == pod.ports["http"]
            assert settings.gateway.host == "0.0.0.0"


@every_overlay
def test_no_service_of_the_namespace_becomes_an_unknown_setting(overlay: str) -> None:
    """The kubelet would put NEXTCLICK_GATEWAY_PORT into each pod's environment, and no process would start."""
    assert any(
        one["metadata"]["name"].startswith("nextclick-") for one in resources_of(overlay, "Service")
    )
    assert all(pod.spec["enableServiceLinks"] is False for pod in pods(overlay))


@every_overlay
def test_every_pod_is_restricted(overlay: str) -> None:
    """The Pod Security Standard `restricted`, and beyond it: no token, nothing of the image can be written."""
    (namespace,) = resources_of(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(overlay):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["fsGroup"] == 10001  # the images' user
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod.spec["serviceAccountName"] == "nextclick"
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.container["resources"]["limits"]["memory"]
        assert pod.container["resources"]["requests"]["cpu"]


@every_overlay
def test_what_pods_refer_to_is_there(overlay: str) -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in resources(overlay)}
    for pod in pods(overlay):
        mounts = {mount["name"] for mount in pod.container["volumeMounts"]}
        templates = pod.owner["spec"].get("volumeClaimTemplates", ())
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        assert mounts == volumes | {one["metadata"]["name"] for one in templates}
        for volume in pod.spec["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in names
            if secret := volume.get("secret"):
                assert secret["secretName"] in GIVEN_SECRETS
        for source in pod.container["envFrom"]:
            if config := source.get("configMapRef"):
                assert ("ConfigMap", config["name"]) in names
            else:
                assert source["secretRef"]["name"] in GIVEN_SECRETS
        for variable in pod.container.get("env", ()):
            if key := variable.get("valueFrom", {}).get("secretKeyRef"):
                assert key["name"] in GIVEN_SECRETS


def test_a_stranger_is_told_how_to_make_each_secret() -> None:
    text = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    for secret in GIVEN_SECRETS:
        assert f"create secret generic {secret} " in text


@every_overlay
def test_no_secret_is_written_down(overlay: str) -> None:
    assert not resources_of(overlay, "Secret")
    for pod in pods(overlay):
        for variable in pod.container.get("env", ()):
            if variable["name"].endswith(("PASSWORD", "TOKEN", "USERNAME")):
                assert "secretKeyRef" in variable["valueFrom"]


@every_overlay
@pytest.mark.parametrize(
    ("component", "setting", "written"),
    [
        ("worker", "registry", False),
        ("worker", "data_dir", True),
        ("gateway", "registry", False),
        ("archive", "click_log", True),
        ("compact", "click_log", True),
        ("retrain", "click_log", False),
        ("retrain", "registry", True),
        ("retrain", "data_dir", True),
        ("refresh", "click_log", False),
        ("refresh", "registry", True),
        ("refresh", "data_dir", True),
    ],
)
def test_what_a_process_keeps_lies_on_a_volume(
    overlay: str, component: str, setting: str, written: bool
) -> None:
    pod = pod_of(overlay, component)
    place = str(getattr(settings_of(pod, overlay), setting))
    if "://" in place:
        assert overlay == "object-store"
        assert {"secretRef": {"name": "nextclick-object-store"}} in pod.container["envFrom"]
        return
    mounts = {mount["mountPath"]: mount for mount in pod.container["volumeMounts"]}
    (mount,) = (mounts[path] for path in mounts if Path(place).is_relative_to(path))
    assert mount.get("readOnly", False) is not written


@every_overlay
def test_the_session_store_lies_on_the_workers_own_volume(overlay: str) -> None:
    pod = pod_of(overlay, "worker")
    (claim,) = pod.owner["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    (mount,) = (
        one for one in pod.container["volumeMounts"] if one["name"] == claim["metadata"]["name"]
    )
    data_dir = settings_of(pod, overlay).data_dir
    # Below it, not it: the root of a volume is not ours, and may hold lost+found.
    assert data_dir.parent == Path(mount["mountPath"])


@every_overlay
def test_a_worker_is_a_static_member_under_its_pods_name(overlay: str) -> None:
    pod = pod_of(overlay, "worker")
    assert {
        "name": "NEXTCLICK_KAFKA__GROUP_INSTANCE_ID",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
    } in pod.container["env"]
    assert pod.owner["kind"] == "StatefulSet"
    assert pod.owner["spec"]["podManagementPolicy"] == "Parallel"


@every_overlay
def test_services_are_probed_and_jobs_end(overlay: str) -> None:
    for pod in pods(overlay):
        if pod.owner["kind"] in ("StatefulSet", "Deployment"):
            for probe, path in (
                ("startupProbe", "/healthz"),
                ("livenessProbe", "/healthz"),
                ("readinessProbe", "/readyz"),
            ):
                assert pod.container[probe]["httpGet"] == {"path": path, "port": "metrics"}
        else:
            job = pod.owner["spec"].get("jobTemplate", pod.owner)["spec"]
            assert job["activeDeadlineSeconds"] > 0
            assert pod.spec["restartPolicy"] == "Never"


@every_overlay
def test_nobody_is_killed_before_it_has_ended_by_itself(overlay: str) -> None:
    assert (
        pod_of(overlay, "worker").spec["terminationGracePeriodSeconds"]
        > worker_service.STOP_SECONDS + 10
    )
    gateway = pod_of(overlay, "gateway")
    sleeps = gateway.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    waits = settings_of(gateway, overlay).gateway
    assert gateway.spec["terminationGracePeriodSeconds"] > (
        sleeps + (waits.store_ms_max + waits.wait_ms_max) / 1000
    )


@every_overlay
def test_a_worker_may_take_its_time_to_start(overlay: str) -> None:
    """It listens only once the store is open and the live model was waited for."""
    probe = pod_of(overlay, "worker").container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > 10 * worker_service.SETTLE_SECONDS
