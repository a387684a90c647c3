"""Whole jobs as library calls: what the commands do, without the command line."""
