"""MLflow's runs, and the attempts that may write to them."""
