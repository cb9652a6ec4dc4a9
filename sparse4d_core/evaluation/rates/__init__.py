"""What frames that come faster than a model was trained for do to its boxes and tracks."""
