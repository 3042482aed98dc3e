"""What a person sees in the Dagster UI."""
