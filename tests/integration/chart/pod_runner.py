"""Run a container of a rendered pod by docker, as restricted as the pod's security context says.

Simplified: no Kubernetes is here, so every pod sees the network of this machine, Secrets come as plain variables, and
volumes are folders of the test.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lorapar import __version__
from tests.helm.chart import CHART, Manifest, environment, pod_spec

DOCKER = os.environ.get("DOCKER", "docker")


@cache
def image_is_here(name: str) -> bool:
    """Whether `images/build.sh` has made the image on this machine."""
    try:
        command = [DOCKER, "image", "inspect", f"lorapar/{name}:{__version__}"]
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass
class PodRunner:
    """One pod: its containers share its volumes."""

    manifest: Manifest
    folder: Path
    """Holds a folder for each volume."""
    secrets: dict[str, str] = field(default_factory=dict)
    """What the Secrets of the cluster would hold, by variable."""
    moved: dict[str, str] = field(default_factory=dict)
    """Texts in commands and variables that name a place in the cluster, and what stands there here."""

    def container(self, name: str) -> dict[str, Any]:
        spec = pod_spec(self.manifest)
        assert spec
        (found,) = [c for c in (*spec.get("initContainers", []), *spec["containers"]) if c["name"] == name]
        return found

    def command(self, name: str, *options: str) -> list[str]:
        """The whole docker command line of a container."""
        container = self.container(name)
        context = pod_spec(self.manifest)["securityContext"]  # type: ignore[index]
        words = [DOCKER, "run", "--rm", "--network", "host", "--read-only", "--cap-drop", "ALL"]
        words += ["--security-opt", "no-new-privileges", "--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        for key, value in environment(container).items():
            words += ["--env", f"{key}={self._here(value) if isinstance(value, str) else self.secrets[key]}"]
        for mount in container["volumeMounts"]:
            words += [
                "--volume",
                f"{self._volume(mount['name'])}:{mount['mountPath']}{':ro' * mount.get('readOnly', 0)}",
            ]
        image = container["image"].rpartition("/")[2].partition(":")[0]
        message = [*container["command"], *container.get("args", [])]
        return [*words, *options, f"lorapar/{image}:{__version__}", *map(self._here, message)]

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A container to its end."""
        return subprocess.run(self.command(name, *options), capture_output=True, text=True, check=False, timeout=300)

    def _here(self, text: str) -> str:
        for place, here in self.moved.items():
            text = text.replace(place, here)
        return text

    def _volume(self, name: str) -> Path:
        if name == "scripts":
            return CHART / "files"
        place = self.folder / name
        place.mkdir(exist_ok=True)
        place.chmod(0o777)
        return place
