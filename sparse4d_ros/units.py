"""Units of time: stamps are int nanoseconds, parameters float seconds, stamps of nuScenes int microseconds."""

NANOSECONDS = 1_000_000_000  # in a second
MILLISECOND = 1_000_000  # ns
MICROSECOND = 1000  # ns


def nanoseconds(seconds: float) -> int:
    """A duration in seconds as whole nanoseconds."""
    return round(seconds * NANOSECONDS)
