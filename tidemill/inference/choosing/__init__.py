"""What `auto` comes to: the fastest engine, dtype and token budget here, among those that are exact."""
