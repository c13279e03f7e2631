"""Retrieval experts: one base encoder, one light adapter a domain, and a router over them.

RouterRetriever (arXiv 2409.02685). The pilots that route are `coe.routers.pilots`; what is here
is the experts: what they learn from, how they are trained, kept, indexed and asked.
"""
