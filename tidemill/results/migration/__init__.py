"""From the layout of an older lake to the one that this Tidemill writes."""
