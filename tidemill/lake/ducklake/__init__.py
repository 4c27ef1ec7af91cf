"""The DuckLake itself: its catalog, its locks, its connection, its files."""
