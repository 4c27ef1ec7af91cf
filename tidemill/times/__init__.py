"""What texts say of time: when something is due, and which days a path or an option means."""
