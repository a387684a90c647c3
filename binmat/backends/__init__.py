"""Formats of model files: one folder each, behind one protocol."""
