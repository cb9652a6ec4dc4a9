"""A job of bags whose workers die; in a module of its own, which other processes can import."""

from __future__ import annotations

from small_jobs import die_if_child

from sparse4d_ros.bags.bag_task import BagTask


class DyingBags(BagTask):
    def start(self, device):
        die_if_child()
