"""The server behind the page: gradio's, kept to this machine and to what it needs."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..terminal import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .models import Models

#: Largest upload, in bytes: what a large scan of 16 bits has.
MOST_BYTES = 512 * 2**20
#: Uploads and results that nobody has looked at for so long are removed while the server runs, in seconds; all at its
#: end. How often that is looked at comes first.
KEPT = (600, 24 * 3600)
#: Names of this machine.
LOCAL = ("127.0.0.1", "localhost", "::1")
#: What the page may load: from this server alone, whatever gradio's page asks for.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def check_gradio() -> None:
    """Whether the page can be shown at all.

    :raises ImportError: gradio is not there; the message says how to get it.
    """
    found = find_spec("gradio")
    if found is None or found.origin is None:  # a folder of that name, such as gradio's own of kept files, is none
        raise ImportError('The page needs gradio, which is not there: pip install -e ".[app]" in the pack\'s folder.')


class Guard:
    """What every request passes: nothing too large comes in, and the page asks no other host.

    ASGI middleware: no request body above :data:`MOST_BYTES`, however it is sent; every answer carries :data:`POLICY`
    and tells other sites nothing.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], most: int = MOST_BYTES) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await _refuse(send, self._most)
            return
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            return message if came <= self._most else {"type": "http.disconnect"}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, counted, guarded)


async def _refuse(send: Send, most: int) -> None:
    said = f"The file is larger than {most >> 20} MB, or its size is not told as a number.".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """gradio's environment: it calls nobody, keeps its files in a folder, and reaches its own server past a proxy.

    :param folder: of uploads and results.
    """
    local = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost")))
    wanted = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_SHARE": "False",
        "GRADIO_SSR_MODE": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_RUN_HISTORY": "False",
        "NO_PROXY": local,
        "no_proxy": local,
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def serve(models: Models, *, host: str, port: int, shown: bool, traceback: bool) -> None:
    """Show the page until the user ends the program. Its files go with it.

    :param shown: whether the browser is opened.
    :param traceback: whether unexpected errors are shown in the terminal, too.
    :raises OSError: nothing can be served there.
    """
    with tempfile.TemporaryDirectory(prefix="exemplar-app-") as place, quiet(Path(place) / "kept"):
        page, url = launch(models, Path(place), host=host, port=port, shown=shown, traceback=traceback)
        with suppress(ValueError):  # not in the main thread, which alone hears signals
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # its files go in this case, too
        try:
            say(f"{url} shows the page; Ctrl+C ends it.")
            while True:
                time.sleep(3600)
        finally:
            with suppress(Exception):  # the program ends in any case
                page.close(verbose=False)


def launch(
    models: Models,
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    shown: bool = False,
    traceback: bool = False,
) -> tuple[Any, str]:
    """The page, served in the background. To be called within :func:`quiet`.

    :param folder: where jobs have their files; gradio copies what is downloaded from there to its own.
    :param port: None takes one that is free.
    :returns: gradio's Blocks, to be closed, and the address.
    :raises OSError: nothing can be served there.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from ...demo import model_path
    from .jobs import Jobs
    from .page import HEAD, STYLE, build, theme

    page = build(models, Jobs(folder, traceback=traceback))
    called = [*LOCAL, host] if host in LOCAL else ["*"]  # a page elsewhere may give this machine a name of its own
    passed = [Middleware(TrustedHostMiddleware, allowed_hosts=called), Middleware(Guard)]
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            inbrowser=shown,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            enable_monitoring=False,
            pwa=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size=MOST_BYTES,
            allowed_paths=[str(model_path().parent / "pictures")],  # the examples; nothing else is served
            state_session_capacity=64,
            app_kwargs={"middleware": passed, "docs_url": None, "redoc_url": None, "openapi_url": None},
            theme=theme(),
            css=STYLE,
            head=HEAD,
        )
    except OSError as error:
        raise OSError(f"--port {port} on --host {host} cannot be listened at; choose others.") from error
    return page, url.rstrip("/")
