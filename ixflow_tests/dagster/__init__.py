"""The Dagster surface, run in this process."""
