"""Trains the starter's person detector: `python -m training --help`."""
