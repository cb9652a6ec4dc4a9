"""How long tests wait for what must happen, on the busiest machine. Whoever fails waits so long; nobody else does."""

PATIENCE = 150.0  # s; half of what pytest allows a test
