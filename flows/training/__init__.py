"""A population that is trained under MLflow."""
