"""Bodies: what turns observations into features, for all agents of a population at once."""
