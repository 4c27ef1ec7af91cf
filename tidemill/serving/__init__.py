"""A service that answers by a pipeline's promoted version, one row at a time, as a run answers a shard."""
