"""Benchmarks that are really asked: questions, how they are put, read and scored.

A file's rows become `Question`s (`rows`, `reading`), a benchmark says how its rows look, what is
told before a question and by which rule an answer is read (`catalog`), and a scorer says what an
answer is worth (`scoring`). Nothing is asked here.
"""
