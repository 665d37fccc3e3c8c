"""Conversations as ids: the model's own chat template, with images in any turn and a loss mask that is exact.

A chat template is a program from strings to one string; it knows nothing of image codes or of losses. So everything it
must not touch goes through it as a *mark*, a short string of two private-use characters around a number:

    messages    user (grid, "What is it?")           assistant ("An apple.",)
    marked      user "⟦0⟧\\nWhat is it?"              assistant "⟦1⟧An apple.⟦2⟧"
    template    <|user|>⟦0⟧\\nWhat is it?<|end|><|assistant|>⟦1⟧An apple.⟦2⟧<|end|>
    pieces      <|user|> | <boi> codes <eoi> | \\nWhat is it?<|end|><|assistant|> | An apple. | <|end|>
    loss                                                                          ^^^^^^^^^   ^^^^^^^

The template runs once over the whole conversation, so templates that rewrite history (Qwen 3 drops old reasoning) give
exactly the string they would give without us, and marks tell where each turn of the model's begins and ends. Rendering
growing prefixes of the conversation instead breaks on those templates. A turn starts where the generation prompt ends,
so that what the template puts between it and the content (Qwen 3's empty `<think>` block, Mistral's space) is learnt
too; it ends with the first special token after the content. Text is cut at the start of a turn, so that the ids of a
prompt are those the model was trained to continue.

Tokenizers without a template get Gemma's turns where they know `<start_of_turn>`, else `PLAIN_TURNS`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import TemplateError

from liquid_mm.errors import UserError
from liquid_mm.vocab.records import Message
from liquid_mm.vocab.text import TextEncoder
from liquid_mm.vocab.vocabulary import Grid, Vocabulary

GEMMA_TURNS = (
    "{{ bos }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content | trim + '\n\n' %}{% else %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
    "{{ ns.system + m.content | trim }}<end_of_turn>\n{% set ns.system = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's turns; a system message goes before the next user turn's text, as Gemma 3 does."""

PLAIN_TURNS = (
    "{{ bos }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}"
    "User: {{ m.content }}\n{% else %}Assistant: {{ m.content }}{{ eos }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For base models without a chat template: "User: …\\nAssistant: …<eos>\\n"."""

ROLES = ("system", "user", "assistant")

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"({_OPEN}[0-9]+{_CLOSE})")


@dataclass(frozen=True)
class _Spelled:
    """A string from a person that would read as a special token, or as a mark of ours."""

    text: str


_START, _END = object(), object()


class ChatRenderer:
    """Renders conversations with the tokenizer's own chat template.

    Args:
        encoder: the text encoder, whose tokenizer carries the template.
        vocabulary: image codes and special ids.
    """

    def __init__(self, encoder: TextEncoder, vocabulary: Vocabulary) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._spelled = re.compile(f"{encoder.special_pattern.pattern}|{_OPEN}|{_CLOSE}")
        known = encoder.tokenizer.get_vocab()
        fallback = GEMMA_TURNS if "<start_of_turn>" in known and "<end_of_turn>" in known else PLAIN_TURNS
        self._template = fallback if encoder.tokenizer.chat_template is None else None

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation and whether each is the model's to learn.

        If the last message is not the assistant's, the ids end with the template's generation prompt and nothing is
        to be learnt.

        Raises:
            UserError: no messages, an unknown role, or the template refuses the conversation.
        """
        if not messages:
            raise UserError("a chat needs at least one message.")
        slots: list[object] = []
        contents = [{"role": _role(message), "content": self._content(message, slots)} for message in messages]
        prompt = messages[-1].role != "assistant"
        string = self._apply(contents, prompt=prompt)
        ids, mask = self._encode(string, slots)
        return ids, [False] * len(ids) if prompt else mask

    @functools.cached_property
    def end_of_turn(self) -> int | None:
        """The special id with which the model ends its turn, or None if the template closes turns with plain text."""
        ids, mask = self.render([Message("user", ("a",)), Message("assistant", ("a",))])
        learnt = [index for index, learn in zip(ids, mask, strict=True) if learn and index in self._encoder.special_ids]
        return learnt[-1] if learnt else None

    @functools.cached_property
    def _lead(self) -> str:
        """What the template puts between its generation prompt and a reply, such as an empty `<think>` block."""
        user = {"role": "user", "content": f"{_OPEN}0{_CLOSE}"}
        reply = {"role": "assistant", "content": f"{_OPEN}1{_CLOSE}"}
        prompt = _MARK.split(self._apply([user], prompt=True))[-1]
        between = _MARK.split(self._apply([user, reply], prompt=False))[2]
        return between[len(prompt) :] if between.startswith(prompt) else ""

    def _content(self, message: Message, slots: list[object]) -> str:
        """A message as one string: what the template must not read goes to `slots`, with a mark in its place."""

        def mark(slot: object) -> str:
            slots.append(slot)
            return f"{_OPEN}{len(slots) - 1}{_CLOSE}"

        def text(part: str) -> str:
            return self._spelled.sub(lambda match: mark(_Spelled(match[0])), part)

        speaking = message.role == "assistant"
        start = mark(_START) if speaking else ""
        content = ""
        for index, part in enumerate(message.parts):
            if isinstance(part, str):
                content += text(part)
            else:
                # Released format: a picture in a user's turn stands on a line of its own before the question.
                last = index == len(message.parts) - 1
                content += mark(np.asarray(part)) + ("" if speaking or last else "\n")
        if not speaking:
            return content
        # A prompt ends right before the first word of the reply, so whitespace before that word is dropped. Whitespace
        # after the last one stays outside the marks, where templates that trim a turn still see it.
        content = content.lstrip()
        core = content.rstrip()
        return start + core + mark(_END) + content[len(core) :]

    def _apply(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        tokenizer = self._encoder.tokenizer
        bos, eos = self._vocabulary.bos, self._vocabulary.eos
        try:
            string = tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                add_generation_prompt=prompt,
                tokenize=False,
                bos="" if bos is None else tokenizer.convert_ids_to_tokens(bos),
                eos=tokenizer.convert_ids_to_tokens(eos),
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the model's chat template refuses this conversation ({roles}): {error}.") from error
        return str(string)

    def _encode(self, string: str, slots: list[object]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        speaking = closing = False
        for piece, slot in self._pieces(string, slots):
            if slot is _START:
                speaking = True
            elif slot is _END:
                speaking, closing = False, True
            else:
                new = self._encode_piece(piece if slot is None else slot, continuing=bool(ids))
                mask += self._closing_mask(piece, new) if closing else [speaking] * len(new)
                ids += new
                closing = False
        return ids, mask

    def _pieces(self, string: str, slots: list[object]) -> Iterator[tuple[str, object]]:
        """The template's string cut at its marks: (text, None) or (mark, what it stands for). Empty text is left out.

        Each start mark is moved before the template's own lead into a reply, where there is one.
        """
        cut = _MARK.split(string)
        for index in range(1, len(cut), 2):
            if slots[_number(cut[index])] is _START and cut[index - 1].endswith(self._lead):
                cut[index - 1] = cut[index - 1].removesuffix(self._lead)
                cut[index + 1] = self._lead + cut[index + 1]
        for index, piece in enumerate(cut):
            if piece:
                yield piece, slots[_number(piece)] if index % 2 else None

    def _encode_piece(self, piece: object, *, continuing: bool) -> list[int]:
        if isinstance(piece, str):
            return self._encoder.template(piece, continuing=continuing)
        if isinstance(piece, _Spelled):
            return self._encoder.plain(piece.text, continuing=continuing)
        assert isinstance(piece, np.ndarray)
        return image_span(self._vocabulary, piece)

    def _closing_mask(self, piece: str, ids: list[int]) -> list[bool]:
        """What follows the model's words is learnt up to and including the special token that ends its turn."""
        if not self._encoder.special_pattern.match(piece.lstrip()):
            return [False] * len(ids)
        last = next(index for index, value in enumerate(ids) if value in self._encoder.special_ids)
        return [index <= last for index in range(len(ids))]


def image_span(vocabulary: Vocabulary, codes: Grid) -> list[int]:
    """`<boi>` codes `<eoi>` as ids, row by row.

    Args:
        vocabulary: where codes start and which ids open and close an image.
        codes: integers of shape (rows, columns).

    Raises:
        UserError: `codes` is not a grid, or holds a code the vocabulary does not have.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.size == 0 or codes.dtype.kind not in "iu":
        raise UserError(f"an image must be integer codes of shape (rows, columns), not {codes.dtype} of {codes.shape}.")
    return list(itertools.chain([vocabulary.boi], vocabulary.to_ids(codes).tolist(), [vocabulary.eoi]))


def _role(message: Message) -> str:
    if message.role not in ROLES:
        raise UserError(f"unknown role {message.role!r} in a chat: allowed are {', '.join(ROLES)}.")
    return message.role


def _number(mark: str) -> int:
    return int(mark[len(_OPEN) : -len(_CLOSE)])
