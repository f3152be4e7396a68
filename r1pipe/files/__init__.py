"""Rows of data files as they come: JSON, JSON lines, CSV, TSV, Parquet, Arrow; files and folders.

A file is read from its own bytes, never by way of another library's cache.
"""

from r1pipe.files.reading import described, first_records, records, records_or_faults
from r1pipe.files.record import BrokenRow, Record

__all__ = ["BrokenRow", "Record", "described", "first_records", "records", "records_or_faults"]
