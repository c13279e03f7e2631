"""Operating a pool at run time: an API of its own, on a port of its own, behind a key."""
