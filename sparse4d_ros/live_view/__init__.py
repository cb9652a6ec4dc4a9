"""The live view: what a detector sees and finds, in a browser.

live_source (ROS) or recorded_source (bag and record) ─► Scene, the last 60 s ─► browser/: a Page for each (viser)
"""
