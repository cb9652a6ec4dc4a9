"""The web server: a page for every browser that connects."""

from __future__ import annotations

import threading
from types import TracebackType

import viser

from ..scene import Scene
from .page import Page


class WebServer:
    """Serves a scene until it is closed. A context manager.

    Args:
        scene: what is shown.
        host: address to listen on; "127.0.0.1" for this machine alone.
        port: the next free one is taken where it is in use.
        title: of the page.
    """

    def __init__(self, scene: Scene, host: str, port: int, title: str = "sparse4d_ros"):
        self._pages: dict[int, Page] = {}
        self._lock = threading.Lock()
        self._scene = scene
        self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self._server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._server.gui.set_panel_label(title)
        self._server.gui.main_panel.dock_right()
        self._server.gui.main_panel.set_width(330)
        self._server.on_client_connect(self._on_connect)
        self._server.on_client_disconnect(self._on_disconnect)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = self._server.get_host()
        return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{self._server.get_port()}"

    @property
    def browsers(self) -> int:
        """How many look on."""
        return len(self._pages)

    def _on_connect(self, client: viser.ClientHandle) -> None:
        page = Page(client, self._scene)
        with self._lock:
            self._pages[client.client_id] = page

    def _on_disconnect(self, client: viser.ClientHandle) -> None:
        with self._lock:
            page = self._pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    def close(self) -> None:
        """Ends the pages and the server."""
        with self._lock:
            for page in self._pages.values():
                page.close()
            self._pages.clear()
        self._server.stop()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()
