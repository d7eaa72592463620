"""MLflow's registry: versions, their evaluation, the gate, and the champion."""
