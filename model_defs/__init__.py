"""The networks: one file each, with their checkpoint layouts and deployment calls, and a registry by name."""
