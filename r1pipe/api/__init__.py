"""The Python API: a manifest with its store, its results, and the documents of `--json`."""
