"""Trackers of experiments: the metrics of a stage, sent on to where people look at curves."""
