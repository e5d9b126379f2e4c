"""Runs on disk: a run is one directory, and its manifest, written last, is its commit."""
