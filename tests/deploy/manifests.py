"""The rendered overlays of deploy/kubernetes, and what tests ask of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from deploy.kubernetes.render import OVERLAYS, PROMETHEUS_RULE, RENDERED

Resource = dict[str, Any]

__all__ = ["OVERLAYS", "Pod", "Resource", "pods", "resources", "resources_of"]

GIVEN_SECRETS = {
    "nextclick-kafka",
    "nextclick-kafka-ca",
    "nextclick-gateway",
    "nextclick-object-store",
}
"""Secrets that are the user's to make: docs/kubernetes.md says how."""


@cache
def resources(overlay: str) -> list[Resource]:
    """As rendered, and the generated alerts where the overlay has any."""
    found = list(yaml.safe_load_all((RENDERED / f"{overlay}.yaml").read_text()))
    if any(one["kind"] == "PodMonitor" for one in found):
        found.append(yaml.safe_load(PROMETHEUS_RULE.read_text()))
    return found


def resources_of(overlay: str, kind: str) -> list[Resource]:
    return [one for one in resources(overlay) if one["kind"] == kind]


@dataclass(frozen=True)
class Pod:
    """A pod template and what makes pods of it."""

    owner: Resource
    template: Resource

    @property
    def component(self) -> str:
        return str(self.owner["metadata"]["labels"]["app.kubernetes.io/component"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def spec(self) -> Resource:
        return dict(self.template["spec"])

    @property
    def container(self) -> Resource:
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", ())}

    def environment(self, overlay: str) -> dict[str, str]:
        """What the process finds in its environment; 16 letters where a Secret or a field is meant."""
        found: dict[str, str] = {}
        for source in self.container.get("envFrom", ()):
            if name := source.get("configMapRef", {}).get("name"):
                (data,) = (
                    one["data"]
                    for one in resources_of(overlay, "ConfigMap")
                    if one["metadata"]["name"] == name
                )
                found |= data
        for variable in self.container.get("env", ()):
            found[variable["name"]] = variable.get("value", "x" * 16)
        return found


def pods(overlay: str) -> list[Pod]:
    return list(_pods(overlay))


def _pods(overlay: str) -> Iterator[Pod]:
    for one in resources(overlay):
        spec = one.get("spec", {})
        if one["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield Pod(one, spec["template"])
        elif one["kind"] == "CronJob":
            yield Pod(one, spec["jobTemplate"]["spec"]["template"])
