"""The tests of ixflow."""
