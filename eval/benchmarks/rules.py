r"""The readers that the benchmarks' own authors score with, beside ours of `coe.eval.answers`.

A score under these is comparable with published ones. They guess more: the last capital letter of
a text counts as an answer. Where they read nothing the authors draw a letter at random; here it is
no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Rule = Callable[[str, int], str | None]
"""Completion, number of options → the letter or number; None if nothing can be read."""


def mmlu_pro_rule(completion: str, n_options: int) -> str | None:
    """`extract_answer` of TIGER-AI-Lab/MMLU-Pro (compute_accuracy.py): three levels."""
    for pattern in (r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])"):
        match = re.search(pattern, completion)
        if match:
            return match[1]
    last = re.search(r"[A-J](?=[^A-J]*$)", completion)
    return last[0] if last else None


def symbolic_rule(completion: str, n_options: int) -> str | None:
    """Symbolic-MoE's, of GPQA and MedMCQA: the last letter before a bracket, else the last one."""
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[max(0, n_options - 1)]
    for pattern in (rf"([A-{last}])\)", rf"([A-{last}])"):
        found = re.findall(pattern, completion)
        if found:
            return str(found[-1])
    return None


def boxed_rule(completion: str, n_options: int) -> str | None:
    r"""What the last `\boxed{}` holds, which is how AIME is scored."""
    begin = completion.rfind(r"\boxed{")
    if begin < 0:
        return None
    depth = 0
    for end in range(begin + len(r"\boxed"), len(completion)):
        depth += {"{": 1, "}": -1}.get(completion[end], 0)
        if depth == 0:
            return completion[begin + len(r"\boxed{") : end].strip()
    return None
