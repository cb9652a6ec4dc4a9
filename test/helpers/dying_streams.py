"""A job of scenes whose workers die; in a module of its own, which other processes can import."""

from __future__ import annotations

from small_jobs import die_if_child

from sparse4d_core.evaluation.stream_workers import StreamTask


class DyingStreams(StreamTask):
    def start(self, device):
        die_if_child()
