"""The parts of the flow `adapt`: identify, look among known worlds, retrain, watch."""
