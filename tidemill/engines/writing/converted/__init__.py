"""Models that write, converted for CTranslate2: what is converted, where that is kept, and whether it may stand in."""
