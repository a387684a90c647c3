"""Does a model file compute what its network computes? Network against lowered graph, then graph against file."""
