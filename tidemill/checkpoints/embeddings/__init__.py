"""How the vectors of a text's tokens become one: as a folder of sentence-transformers says, or as is asked for."""
