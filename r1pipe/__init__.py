"""Reproduce the DeepSeek-R1 recipe from one declarative manifest."""

__version__ = "0.1.0"
