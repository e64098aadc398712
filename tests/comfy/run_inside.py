"""Runs pytest inside a ComfyUI checkout: real ComfyUI modules, no server.

Called by ``test_inside.py`` with ComfyUI's own Python, in its folder:
``python run_inside.py PYTEST_SITE_PACKAGES PACK_ROOT [pytest arguments]``.
"""

import importlib.util
import os
import sys


def main(extra_site: str, root: str, arguments: list[str]) -> int:
    sys.path.insert(0, os.getcwd())
    sys.path.append(extra_site)  # at the end: only what ComfyUI's environment lacks (pytest) comes from there
    for stub in filter(None, os.environ.get("COMFYUI_STUB", "").split(",")):
        importlib.import_module(stub)

    import torch

    sys.argv = sys.argv[:1]  # ComfyUI reads the command line on import
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    torch.set_grad_enabled(False)
    # as ComfyUI does: under a name of its choosing, found by its path
    spec = importlib.util.spec_from_file_location(
        "comfyui_exemplar", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    sys.modules["comfyui_exemplar"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["comfyui_exemplar"])

    import pytest

    # the pack's own __init__.py is no test package: pytest would import it again, under the name of its folder
    return pytest.main(
        [
            "-c",
            os.path.join(root, "pyproject.toml"),
            "--rootdir",
            root,
            "--confcutdir",
            os.path.join(root, "tests"),
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
