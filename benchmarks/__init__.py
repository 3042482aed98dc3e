"""Side-by-side measurements, printed as ratios; see README.md."""
