"""`python -m ixflow.cli`, where the console script is not on PATH."""

from __future__ import annotations

from ixflow.cli.main import main

if __name__ == "__main__":
    main()
