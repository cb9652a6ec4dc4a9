"""Shared by the tests of training."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def one_thread():
    """A fixed order of summation, and no waiting for cores that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
