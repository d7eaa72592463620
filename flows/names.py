"""What things are called in the registry."""


def model_name(env_id: str) -> str:
    """Name of the registered model of an environment; a registered name may hold no slash or colon."""
    return "dqn-" + env_id.replace("/", "-").replace(":", "-")
