"""A CLIP model, seen as two towers: built, frozen, described."""
