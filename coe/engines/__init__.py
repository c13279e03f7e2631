"""Engines: what runs an expert. `base` is the seam, each other module one kind."""
