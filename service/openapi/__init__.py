"""The gateway's own description: OpenAPI 3.1, for people, for generated clients and for fuzzers."""
