"""A real Kubernetes API server, its store and its client, built from source by Go's module proxy.

No release of it can be downloaded everywhere, and a module can.  Everything lies in one folder outside of the
repository, Go's caches included: delete it and all is gone.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KUBERNETES: Final = "1.34.3"
ETCD: Final = "v3.6.4"
OPERATOR: Final = "v0.85.0"
"""prometheus-operator: its module carries its custom resource definitions."""

_STAGING: Final = (
    *("api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go"),
    *("cloud-provider", "cluster-bootstrap", "code-generator", "component-base"),
    *("component-helpers", "controller-manager", "cri-api", "cri-client", "csi-translation-lib"),
    *("dynamic-resource-allocation", "endpointslice", "externaljwt", "kms", "kube-aggregator"),
    *("kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics"),
    *("mount-utils", "pod-security-admission", "sample-apiserver", "sample-cli-plugin"),
    "sample-controller",
)
"""Modules that Kubernetes develops in its own tree: their versions go with its own."""
_CRDS: Final = ("podmonitors", "prometheusrules", "servicemonitors")


class ToolsError(Exception):
    """They cannot be built here."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Programs and files, all there."""

    api_server: Path
    etcd: Path
    kubectl: Path
    custom_resources: list[Path]


def build_tools(folder: Path) -> Tools:
    """What is missing in `folder` is built, which takes minutes; nothing once all is there.

    Raises `ToolsError` where Go is missing, or cannot fetch or compile.
    """
    if shutil.which("go") is None:
        raise ToolsError("needs Go 1.24 or newer (`go version`), to build a Kubernetes API server")
    binaries, source = folder / "bin", folder / f"source-{KUBERNETES}"
    binaries.mkdir(parents=True, exist_ok=True)
    source.mkdir(exist_ok=True)
    module = source / "go.mod"
    if not module.exists():
        module.write_text(_go_mod())
    version = f"-X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
    built = {}
    for name, package in (
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("etcd", "go.etcd.io/etcd/server/v3"),
    ):
        built[name] = binaries / f"{name}-{ETCD if name == 'etcd' else KUBERNETES}"
        if not built[name].exists():
            print(f"building {built[name].name} ...", flush=True)
            unfinished = built[name].with_suffix(".new")
            _go(folder, source, "build", "-ldflags", version, "-o", str(unfinished), package)
            unfinished.rename(built[name])
    return Tools(
        built["kube-apiserver"], built["etcd"], built["kubectl"], _custom_resources(folder, source)
    )


def _custom_resources(folder: Path, source: Path) -> list[Path]:
    module = f"github.com/prometheus-operator/prometheus-operator@{OPERATOR}"
    told = json.loads(_go(folder, source, "mod", "download", "-json", module))
    crds = Path(told["Dir"]) / "example" / "prometheus-operator-crd"
    return [crds / f"monitoring.coreos.com_{name}.yaml" for name in _CRDS]


def _go_mod() -> str:
    minor = KUBERNETES.partition(".")[2]
    replaced = "\n".join(f"\tk8s.io/{name} => k8s.io/{name} v0.{minor}" for name in _STAGING)
    return (
        "module nextclick/kubernetes-check\n\ngo 1.24.0\n\n"
        f"require (\n\tk8s.io/kubernetes v{KUBERNETES}\n\tgo.etcd.io/etcd/server/v3 {ETCD}\n)\n\n"
        f"replace (\n{replaced}\n)\n"
    )


def _go(folder: Path, source: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "GOPATH": str(folder / "go"),
        "GOCACHE": str(folder / "go-build"),
        "GOFLAGS": "-mod=mod",
    }
    done = subprocess.run(
        ["go", *arguments], cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ToolsError(f"go {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
