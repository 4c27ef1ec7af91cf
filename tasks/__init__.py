"""How one step runs under Prefect: a file a step, each one engine call."""
