"""Whether a model file computes what its network computes: network against lowered graph, then graph against file."""
