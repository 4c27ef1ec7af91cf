"""Where bytes are kept: the store of intermediate files, and addresses that are not local paths."""
