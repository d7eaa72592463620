"""Steps and flow runs of Prefect, which is optional, and the output on a terminal."""
