"""Answers judged by a language model: graded alone, or against a baseline in both orders.

What a judge is asked is in `prompts`, how its opinion is read in `opinions`; `panel` asks it and
keeps what it says in the run, and `winrates` makes numbers of it, with and without style.
"""
