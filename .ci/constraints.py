"""Write into constraints.txt the sha256 of every file that the package index has of each pinned version.

pip then refuses any other file. torch has none: which of its wheels is right, for CPU or CUDA, is for whoever installs
it. Run it by `make constraints`, after versions were changed.
"""

from __future__ import annotations

import json
import os
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
INDEX = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
WITHOUT_HASHES = {"torch"}


def main() -> None:
    pins = re.findall(r"^([\w.-]+)==([^\s\\]+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    with ThreadPoolExecutor(8) as pool:
        CONSTRAINTS.write_text("".join(pool.map(entry, *zip(*pins, strict=True))), encoding="utf-8")


def entry(name: str, version: str) -> str:
    hashes = [] if name in WITHOUT_HASHES else sorted(hashes_of(name, version))
    return " \\\n".join([f"{name}=={version}", *(f"    --hash=sha256:{found}" for found in hashes)]) + "\n"


def hashes_of(name: str, version: str) -> set[str]:
    """Of the wheels and sdists of one version.

    Raises:
        SystemExit: the index has no file of it.
    """
    normal = re.sub(r"[-_.]+", "-", name).lower()
    asked = urllib.request.Request(
        f"{INDEX.rstrip('/')}/{normal}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        files = json.load(answer)["files"]
    found = {file["hashes"]["sha256"] for file in files if is_of(file["filename"], normal, version)}
    if not found:
        raise SystemExit(f"The index has no file of {name} {version}.")
    return found


def is_of(filename: str, name: str, version: str) -> bool:
    """A wheel is name-version-tags.whl, an sdist name-version.tar.gz; names are spelled as the builder liked."""
    stem = filename.removesuffix(".tar.gz").removesuffix(".zip").removesuffix(".whl")
    of_name = re.fullmatch(re.escape(name).replace(r"\-", "[-_.]+") + r"[-_](.+)", stem, re.IGNORECASE)
    return of_name is not None and (of_name[1] == version or of_name[1].startswith(f"{version}-"))


if __name__ == "__main__":
    main()
