r"""Worked examples of our own, none from a benchmark, for benchmarks whose files have none."""

from __future__ import annotations

from coe.eval.benchmarks.question import Shot

SCIENCE = (
    Shot(
        "A ball is dropped from rest and falls for 2 s. Taking g as 10 m/s^2 and without air "
        "resistance, how far does it fall?\n(A) 10 m\n(B) 20 m\n(C) 40 m\n(D) 5 m",
        "Starting from rest, the distance is g t^2 / 2. With g = 10 m/s^2 and t = 2 s that is "
        "10 * 4 / 2 = 20 m. The answer is (B).",
    ),
    Shot(
        "A price rises by 25 % and then falls by 20 %. How does it compare with what it was?\n"
        "(A) It is 5 % higher\n(B) It is 5 % lower\n(C) It is the same\n(D) It is 45 % higher",
        "A rise of 25 % multiplies the price by 1.25, a fall of 20 % by 0.8. Together that is "
        "1.25 * 0.8 = 1, so the price is what it was. The answer is (C).",
    ),
)
MEDICINE = (
    Shot(
        "Scurvy comes from a lack of which vitamin?\n(A) Vitamin A\n(B) Vitamin B12\n"
        "(C) Vitamin C\n(D) Vitamin D",
        "Scurvy is a failure to make stable collagen, for which proline and lysine must be "
        "hydroxylated. The enzymes that do this need ascorbic acid, which is vitamin C. The "
        "answer is (C).",
    ),
    Shot(
        "Which hormone lowers the concentration of glucose in the blood?\n(A) Insulin\n"
        "(B) Glucagon\n(C) Cortisol\n(D) Adrenaline",
        "Glucagon, cortisol and adrenaline all raise blood glucose. Insulin makes muscle and fat "
        "take glucose up and so lowers it. The answer is (A).",
    ),
)
CONTEST = (
    Shot(
        "Find the remainder when $7^{10}$ is divided by $48$.",
        r"Since $7^2 = 49 = 48 + 1$, $7^2$ leaves the remainder $1$. Hence $7^{10} = (7^2)^5$ "
        r"leaves the remainder $1^5 = 1$. The answer is $\boxed{1}$.",
    ),
    Shot(
        "Two fair dice are rolled. The probability that their sum is $9$ is $\\tfrac{m}{n}$ in "
        "lowest terms. Find $m + n$.",
        r"The sum is $9$ for $(3,6)$, $(4,5)$, $(5,4)$ and $(6,3)$, which are $4$ of $36$ rolls. "
        r"So the probability is $\tfrac{1}{9}$ and $m + n = 1 + 9 = 10$. The answer is "
        r"$\boxed{10}$.",
    ),
)
