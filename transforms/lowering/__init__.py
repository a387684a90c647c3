"""From a network to its lowered graph, and what every backend needs of it."""
