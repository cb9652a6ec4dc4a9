"""What a person can set on the page of one browser."""

from __future__ import annotations

from collections.abc import Callable

import viser

from sparse4d_core.types import CLASS_NAMES

from ..drawing import Choice
from ..scene import KEPT_SECONDS
from .stage import LAYERS, VIEWS

SCORE = 0.3


class Controls:
    """Widgets in the container that is open. Values are read when a moment is drawn.

    Args:
        gui: of the browser.
        look: called with the name of a view that was asked for.
        pause: called when the page is to stop or to go on.

    Attributes:
        paused: whether the page stands still.
    """

    def __init__(self, gui: viser.GuiApi, look: Callable[[str], None], pause: Callable[[bool], None]):
        self._gui, self._pause = gui, pause
        self.paused = False
        self.selected: int | None = None
        self._button = gui.add_button("Pause", hint="stop, and look back through the last minute")
        self._back = gui.add_slider("seconds back", 0.0, KEPT_SECONDS, 0.1, 0.0)
        self._score = gui.add_slider("score from", 0.0, 1.0, 0.01, SCORE)
        self._follow = gui.add_checkbox("follow the vehicle", True)
        views = gui.add_button_group("view from", tuple(VIEWS))
        with gui.add_folder("Layers", expand_by_default=True):
            self._layers = {name: gui.add_checkbox(name, True) for name in LAYERS}
        self._folder = gui.add_folder("Classes", expand_by_default=False)
        self._classes: dict[str, viser.GuiCheckboxHandle[bool]] = {}
        self.offer_classes(CLASS_NAMES)
        self._button.on_click(lambda _: self.set_paused(not self.paused))
        self._back.on_update(lambda _: self.set_paused(True) if self._back.value > 0 else None)
        views.on_click(lambda event: look(event.target.value))

    def offer_classes(self, names: tuple[str, ...]) -> None:
        """A switch for each class; those that are there stay."""
        with self._folder:
            for name in names:
                if name not in self._classes:
                    self._classes[name] = self._gui.add_checkbox(name, True)

    def set_paused(self, paused: bool) -> None:
        """Stops or goes on."""
        if paused != self.paused:
            self._pause(paused)
            self.paused = paused
            self._button.label = "Go on live" if paused else "Pause"
            if not paused:
                self._back.value = 0.0

    @property
    def seconds_back(self) -> float:
        """From the moment at which the page was paused."""
        return float(self._back.value) if self.paused else 0.0

    @property
    def follow(self) -> bool:
        return self._follow.value

    @property
    def layers(self) -> frozenset[str]:
        """Names in LAYERS that are on."""
        return frozenset(name for name, box in self._layers.items() if box.value)

    @property
    def choice(self) -> Choice:
        """Which objects to draw."""
        hidden = frozenset(name for name, box in self._classes.items() if not box.value)
        return Choice(float(self._score.value), hidden, self.selected)
