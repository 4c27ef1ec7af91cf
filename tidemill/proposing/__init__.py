"""What `tidemill init` proposes: a pipeline file for a source, from what its columns and rows show.

Nothing here is guessed from a name alone: columns are read, and names break ties.
"""
