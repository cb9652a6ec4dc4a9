"""A report of scores that people read: one HTML file with everything in it."""
