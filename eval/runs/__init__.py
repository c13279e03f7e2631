"""A benchmark really asked, as a folder: what was asked, each answer once known, and the results.

docs/evaluation.md describes the files. A run that was cut off goes on where it was.
"""
