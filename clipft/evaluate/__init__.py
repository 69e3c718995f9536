"""What came of it, in figures between 0 and 1."""
