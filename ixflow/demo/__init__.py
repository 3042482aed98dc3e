"""A small shop that flows from its source database to published tables: `python -m ixflow.demo`."""
