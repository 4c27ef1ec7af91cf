"""What `auto` comes to: the engine, the dtype and the token budget that are fastest here, among those that are exact."""
