"""The gateway: an OpenAI-compatible HTTP surface over a composition."""
