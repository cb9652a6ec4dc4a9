"""Sparse4D in pure PyTorch: model, tracking, data, training and evaluation. Knows nothing of ROS."""

from .interrupts import end_quietly

end_quietly()
