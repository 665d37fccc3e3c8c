"""Strings to ids, on a model's own text tokenizer, with two guarantees the renderer needs.

1. What a person writes is text. The string "<boi>" in a caption is spelled out as letters; only a template may place
   special tokens.
2. A piece of text in the middle of a sequence gets the ids it would get there. Tokenizers in the style of Llama 2 put a
   space before the first word of every string; after an image that space would be wrong, so such a piece is tokenised
   behind a special token, which is then dropped.

    plain("a red apple")          ordinary text, from a person
    plain("<boi>")                ids of the five characters < b o i >
    template("<|im_end|>\\n")      text of a chat template: special tokens are obeyed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from liquid_mm.vocab.vocabulary import BOI

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextEncoder:
    """Encodes pieces of a sequence with `tokenizer`, never adding special tokens by itself.

    Args:
        tokenizer: the text tokenizer; it must know `<boi>` as a special token, as every extended one does.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.special_ids = frozenset(special_ids(tokenizer))
        self.special_pattern = alternatives(tokenizer.convert_ids_to_tokens(sorted(self.special_ids)))
        self._boi, *later = self._ids(BOI + "a")
        assert tokenizer.convert_ids_to_tokens(self._boi) == BOI, "the tokenizer does not know <boi>"
        self._prefixes_first_word = later != self._ids("a")

    def plain(self, text: str, *, continuing: bool) -> list[int]:
        """Ids of text from a person; special tokens in it are spelled out.

        Args:
            text: any string.
            continuing: whether ids stand before it in the sequence (other than the opening `<bos>`).
        """
        ids: list[int] = []
        for piece in re.split(f"({self.special_pattern.pattern})", text):
            if self.special_pattern.fullmatch(piece):
                # Without its first character it is no special token any more.
                ids += self._spelled(piece[0], continuing=continuing or bool(ids))
                ids += self.plain(piece[1:], continuing=True)
            elif piece:
                ids += self.template(piece, continuing=continuing or bool(ids))
        return ids

    def _spelled(self, character: str, *, continuing: bool) -> list[int]:
        if self.special_pattern.fullmatch(character):
            return list(self.tokenizer(character, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        return self.template(character, continuing=continuing)

    def template(self, text: str, *, continuing: bool) -> list[int]:
        """Ids of text from a chat template: the special tokens in it become their ids."""
        if continuing and self._prefixes_first_word:
            return self._ids(BOI + text)[1:]
        return self._ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids` as it reads in the middle of a sequence: a leading space is kept, special tokens are shown."""
        behind: list[int] = [self._boi, *ids]
        text = str(self.tokenizer.decode(behind, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return text.removeprefix(BOI)

    def _ids(self, text: str) -> list[int]:
        # Quiet: documents longer than the model's context are cut later, by whoever packs them.
        encoding = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
        ids: list[int] = encoding["input_ids"]
        return ids


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids whose strings are commands rather than text: `<bos>`, `<|im_start|>`, `<boi>`, …"""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def alternatives(strings: Iterable[str]) -> re.Pattern[str]:
    """A pattern that matches any of `strings`, the longest first."""
    return re.compile("|".join(re.escape(string) for string in sorted(strings, key=len, reverse=True)))
