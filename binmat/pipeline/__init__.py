"""The program's jobs as library calls."""
