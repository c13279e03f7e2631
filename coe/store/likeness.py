"""Whether two texts can be the same ask, whatever their embeddings say.

An embedding hardly sees a changed number, a "not" or a swapped subject, which change the answer.
So of two texts these have to be equal, in order: numbers with what they count, names and
symbols, negations and words that compare or order, what is quoted, and code. Words that both have
must come in the same order. Strictly, words that only one of them has must be harmless, too: which
word changes the subject, no list can know. It is better to miss a hundred paraphrases than to
answer one question with the answer to another.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)
_QUOTED = re.compile(
    r"“[^”]*”|„[^“”]*[“”]|«[^»]*»|‘[^’]*’|\"[^\"]*\"|(?<!\w)'[^'\n]*'(?!\w)", re.DOTALL
)
_TOKEN = re.compile(
    r"""(?P<number>[-+−]?[$€£¥]?\d[\d.,:/'’_]*(?:[eE][-+]?\d+)?[%‰°]?)
    | (?P<word>\w+(?:['’]\w+)*)
    | (?P<symbol>[^\s\w.,;:!?'"“”‘’„«»()…])""",
    re.VERBOSE,
)
_PLAIN = ("a", "i")
"""Single letters that are words; any other is a name, as of a variable."""
_WORDS = """
not no nor never none nobody nothing nowhere neither cannot without except unless but only
non un isnt arent wasnt werent dont doesnt didnt wont wouldnt cant couldnt shouldnt hasnt
havent hadnt mustnt aint hardly barely scarcely rarely seldom lack lacks lacking fail fails
false true wrong incorrect correct
more less fewer most least greater smaller larger bigger higher lower above below over under
before after earlier later first last next previous oldest newest older newer
largest smallest biggest highest lowest longest shortest best worst better worse good bad
maximum minimum max min increase decrease increases decreases increasing decreasing up down
left right north south east west in out into from to on off with by
and or xor all any every each some both either half double twice thrice once
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
hundred thousand million billion trillion dozen second third fourth fifth sixth seventh
eighth ninth tenth
who whom whose what when where which why how
monday tuesday wednesday thursday friday saturday sunday january february march april may
june july august september october november december today tomorrow yesterday
nicht kein keine nie ohne pas jamais sans sin nunca senza не нет ни никогда без
"""
_DECISIVE = frozenset(_WORDS.split())
_ASIDE = """
a an the please kindly thanks thank hi hello hey just really actually basically
can could would will shall may might do does did is are was were be been am have has had
i you we me us my your our it its s ll ve re d m tell show give explain describe know let
want need like help of for there here that this
"""
_HARMLESS = frozenset(_ASIDE.split())


@dataclass(frozen=True, slots=True)
class Essentials:
    """What an ask cannot do without."""

    decisive: tuple[str, ...]
    """Numbers, names, symbols and decisive words, in order."""
    literal: tuple[str, ...]
    """Code and quotations, as they stand."""
    words: tuple[str, ...]
    """All words, folded, in order."""

    @classmethod
    def of(cls, text: str) -> Essentials:
        literal: list[str] = []

        def keep(found: re.Match[str]) -> str:
            literal.append(found[0])
            return " "

        prose = _QUOTED.sub(keep, _CODE.sub(keep, text))
        decisive: list[str] = []
        words: list[str] = []
        counts = False
        for token in _TOKEN.finditer(prose):
            folded = token[0].casefold()
            if token["word"] is not None:
                words.append(folded)
                # What stands after a number is what it counts.
                if counts or _is_decisive(token[0], folded, is_first=len(words) == 1):
                    decisive.append(folded)
            else:
                decisive.append(folded.rstrip(".,:/'’_") or folded)
            counts = token["number"] is not None
        return cls(tuple(decisive), tuple(literal), tuple(words))

    def is_same_ask(self, other: Essentials, *, is_strict: bool = True) -> bool:
        """Whether one answer may do for both."""
        if self.decisive != other.decisive or self.literal != other.literal:
            return False
        ours, theirs = Counter(self.words), Counter(other.words)
        only_one_has = (ours - theirs) + (theirs - ours)
        if is_strict and not _HARMLESS.issuperset(only_one_has):
            return False
        shared = ours.keys() & theirs.keys() - only_one_has.keys()
        in_order = [word for word in self.words if word in shared]
        return in_order == [word for word in other.words if word in shared]


def _is_decisive(word: str, folded: str, *, is_first: bool) -> bool:
    if len(word) == 1:
        return folded not in _PLAIN
    if folded in _DECISIVE or folded.replace("'", "").replace("’", "") in _DECISIVE:
        return True
    if not word.isalpha() or folded == folded.upper():
        # In scripts that know no capitals we know neither names nor negations: all counts.
        return True
    # The first word is written large in any case; elsewhere it is a name.
    return word != folded and not (is_first and word[1:].islower())
