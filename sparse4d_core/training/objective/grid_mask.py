"""Grid mask (Chen et al. 2020): in training, only the pixels on the bars of a random grid are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schedule import GridMaskConfig


@dataclass(frozen=True)
class Grid:
    period: int  # pixels
    stripe: int  # width of a bar, pixels
    offset: tuple[int, int]  # rows, columns

    @staticmethod
    def draw(height: int, config: GridMaskConfig, rng: np.random.RandomState) -> Grid | None:
        """One grid for a whole batch of images; None: this batch is left as it is."""
        if rng.rand() > config.probability:
            return None
        period = rng.randint(2, height)
        stripe = min(max(int(period * config.ratio + 0.5), 1), period - 1)
        return Grid(period, stripe, (rng.randint(period), rng.randint(period)))

    def mask(self, height: int, width: int) -> np.ndarray:
        """[height, width] bool, True = kept: the centre of a canvas that is half as large again."""
        canvas_height, canvas_width = int(1.5 * height), int(1.5 * width)
        rows = self._bars(canvas_height, canvas_height // self.period, self.offset[0])
        columns = self._bars(canvas_width, canvas_width // self.period, self.offset[1])
        top, left = (canvas_height - height) // 2, (canvas_width - width) // 2
        return rows[top : top + height, None] | columns[None, left : left + width]

    def _bars(self, length: int, count: int, offset: int) -> np.ndarray:
        marked = np.zeros(length, bool)
        for i in range(count):
            start = self.period * i + offset
            marked[start : min(start + self.stripe, length)] = True
        return marked
