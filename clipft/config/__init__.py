"""What a user may write, read and checked. No torch here."""
