"""Operations: the health of the stores, and alerts about runs that failed."""
