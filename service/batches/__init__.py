"""Many requests at once, in OpenAI's batch format: read, answered, and written without loss."""
