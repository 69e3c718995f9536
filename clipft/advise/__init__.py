"""A first config for somebody's data: what to train, of which model, in which batches, and why."""
