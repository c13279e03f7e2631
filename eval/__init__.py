"""Evaluation: data in, one number per query and router, intervals and reports out."""
