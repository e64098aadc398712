"""Which front end the server serves: its own, another release, or a folder that the user named."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from comfy.cli_args import args

from ...pipelines.doctor.machine import version_of

PACKAGE = "comfyui-frontend-package"

#: The folder in which ComfyUI keeps releases that ``--front-end-version`` names, each as provider/version.
_RELEASES = "web_custom_versions"


def front_end() -> str:
    """Its version, and where it is from unless ComfyUI brought it; "" where there is none."""
    # asked of the server, which takes its own where a release cannot be fetched
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    root = getattr(server, "web_root", None) or args.front_end_root
    return version_at(Path(root)) if root else version_of(PACKAGE)


def version_at(root: Path) -> str:
    """The version of the front end in a folder, as far as the folders around it tell; no path is told."""
    package = root.resolve()
    for found in metadata.distributions(name=PACKAGE, path=[str(package.parent.parent)]):
        if package.parent.name == PACKAGE.replace("-", "_"):
            return found.version
    if package.parent.parent.name == _RELEASES:
        return f"{package.name} of {package.parent.name}"
    return "a folder of its own (--front-end-root), which tells no version"
