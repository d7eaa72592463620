"""Episodes that are played on request: simulation, replays, recordings, milestones."""
