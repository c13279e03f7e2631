"""Several processes behind one port: the first of them starts the others and serves nobody."""
