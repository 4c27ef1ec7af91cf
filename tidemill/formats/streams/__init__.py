"""A source file's bytes on their way to a reader: as stored, then decompressed, then as UTF-8, then a record a line."""
