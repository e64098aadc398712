"""``app``: a page in the browser that colors pictures, without ComfyUI. A first look, on this machine.

Start at :func:`run`. :mod:`.page` is what is seen; below it, and without gradio, :mod:`.work` does what a button asks,
:mod:`.pictures` reads what was dropped and painted, :mod:`.controls` says which widget a setting has. :mod:`.jobs` lets
one job run at a time and says what went wrong, :mod:`.models` holds what is loaded, :mod:`.serving` is the server:
local, without a request to any other host.
"""

from __future__ import annotations

import argparse

from .. import names
from .. import options as common

NAME = "app"
HELP = "color pictures on a page in the browser"
DESCRIPTION = (
    "Opens a page in the browser: drop a gray picture and color references, paint strokes, see result, confidence and "
    'where colors come from. Needs gradio: pip install -e ".[app]". Everything stays on this machine.'
)


def add_options(command: argparse.ArgumentParser) -> None:
    common.add_checkpoint(command)
    group = command.add_argument_group("page")
    group.add_argument(
        "--ddcolor",
        type=common.path,
        metavar="FILE",
        help="DDColor file for colors with no reference (default: the embedded one, made for drawings)",
    )
    group.add_argument("--port", type=int, default=7860, metavar="N", help="where the page is served (default: 7860)")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="NAME",
        help="address that is listened at. 127.0.0.1 is this machine alone; with 0.0.0.0 whoever reaches it may use "
        "it, there is no password (default: 127.0.0.1)",
    )
    group.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show the page in the browser (default: on)",
    )


def run(options: argparse.Namespace) -> int:
    from ...demo import ddcolor_path, model_path
    from .models import Models
    from .serving import check_gradio, serve

    if not 0 < options.port < 65536:
        raise ValueError(f"--port is {options.port}; it must lie between 1 and 65535.")
    placed = common.checkpoint(options)
    for option, file in (("--model", options.model or model_path()), ("--vae", options.vae)):
        if file is not None:
            names.check_read(option, file, folders=True)
    names.check_read("--ddcolor", options.ddcolor or ddcolor_path())
    check_gradio()
    serve(
        Models.load(options.model, options.ddcolor, placed),
        host=options.host,
        port=options.port,
        shown=options.open,
        traceback=options.traceback,
    )
    return 0
