"""Frames on a GPU: preprocessing, compilation, the captured step, and clocks that do not wait for it."""
