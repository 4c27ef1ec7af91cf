"""How one stage of one shard runs under Prefect: a file a stage, each one engine call."""
