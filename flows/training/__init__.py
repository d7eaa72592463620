"""Training a population under MLflow."""
