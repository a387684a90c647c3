"""Whole jobs as library calls: what a command does, without the command line."""
