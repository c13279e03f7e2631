"""Routers: one scorer a file, each naming its source, and the policies over them."""
