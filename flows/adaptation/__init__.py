"""The parts of the flow `adapt`: identify the world, look for a version of a similar world, retrain, watch."""
