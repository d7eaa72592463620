"""The pipeline around `dqn`: flows that train, search, register, promote and adapt, under MLflow and Prefect."""
