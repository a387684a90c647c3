"""The networks: one file each, with their checkpoint layouts and example inputs, and a registry by name."""
