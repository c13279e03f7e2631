"""`/v1/files` and `/v1/batches`: what is uploaded, worked on beside other requests, and fetched."""
