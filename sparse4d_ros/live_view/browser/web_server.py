"""The web server: a page for every browser that connects."""

from __future__ import annotations

import logging
import threading
from types import TracebackType

import viser

from ..scene import Scene
from .client_page import Page
from .stage import VIEWS


class WebServer:
    """Serves a scene until it is closed. A context manager.

    Args:
        scene: what is shown.
        host: address to listen on; "127.0.0.1" for this machine alone.
        port: the next free one is taken where it is in use.
        title: of the page.
    """

    def __init__(self, scene: Scene, host: str, port: int, title: str = "sparse4d_ros"):
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)  # else a trace for each idle connection
        self._pages: dict[int, Page] = {}
        self._changed = threading.Condition()
        self._scene = scene
        self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._server.gui.set_panel_label(title)
        self._server.gui.main_panel.dock_right()
        self._server.gui.main_panel.set_width(330)
        self._server.initial_camera.position, self._server.initial_camera.look_at = VIEWS["behind"]
        self._server.on_client_connect(self._on_connect)
        self._server.on_client_disconnect(self._on_disconnect)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = self._server.get_host()
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self._server.get_port()}"

    @property
    def pages(self) -> tuple[Page, ...]:
        """Those of the browsers that look on."""
        with self._changed:
            return tuple(self._pages.values())

    def wait_for_pages(self, count: int, timeout: float) -> bool:
        """Blocks until so many browsers look on. Returns False if the time (s) ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._pages) == count, timeout)

    def _on_connect(self, client: viser.ClientHandle) -> None:
        page = Page(client, self._scene)
        with self._changed:
            self._pages[client.client_id] = page
            self._changed.notify_all()
        if client.client_id not in self._server.get_clients():  # gone while its page was made: nobody else will tell
            self._on_disconnect(client)

    def _on_disconnect(self, client: viser.ClientHandle) -> None:
        with self._changed:
            page = self._pages.pop(client.client_id, None)
            self._changed.notify_all()
        if page is not None:
            page.close()

    def close(self) -> None:
        """Ends the pages and the server."""
        with self._changed:
            for page in self._pages.values():
                page.close()
            self._pages.clear()
        self._server.stop()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()
