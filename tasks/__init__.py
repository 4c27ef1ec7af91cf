"""How one stage of a shard, or of small ones together, runs under Prefect: a file a stage, each one engine call."""
