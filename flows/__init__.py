"""What runs, in which order, when: Prefect flows over the engine."""
