"""One file a family of towers: where it keeps its parts, and how data goes through it block by block."""
