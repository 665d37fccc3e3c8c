"""Three short conversations per picture: one asks for it, one asks what it is, and one does both in turn.

user: Draw a red apple in 3D style.     assistant: [picture]
user: [picture] What is this?           assistant: This is a red apple.
user: Show me a red apple.              assistant: [picture]
user: How is it drawn?                  assistant: In 3D style.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captions import is_plural, with_article
from splits import share

DRAW = (
    "Draw {}.",
    "Please draw {}.",
    "Can you draw {}?",
    "Could you draw {} for me?",
    "Make a picture of {}.",
    "Show me {}.",
    "I would like a picture of {}.",
    "Create an image of {}.",
)
DESCRIBE = (  # question, answer
    ("What is this?", "This is {}."),
    ("What is this?", "It is {}."),
    ("What do you see?", "I see {}."),
    ("What does this picture show?", "It shows {}."),
    ("What is in this image?", "The image shows {}."),
    ("Describe this picture.", "A picture of {} in {style} style."),
    ("What is this, and how is it drawn?", "This is {}, drawn in {style} style."),
)
FOLLOW_UP = (  # question about a picture just drawn, answer
    ("What did you draw?", "I drew {}."),
    ("How is it drawn?", "In {style} style."),
    ("What is it, and in which style?", "It is {}, in {style} style."),
)
STYLE_SAID = 0.5  # of the requests to draw


def chats(name: str, style: str, image: str, wordings: int = 1, style_said: float = STYLE_SAID) -> list[dict[str, Any]]:
    """Conversations about one picture, three per wording; which wordings they have depends on name and style alone.

    Args:
        name: what the picture shows, "red apple".
        style: how it is drawn, "3D".
        image: its path, as the records give it.
        wordings: how many.
        style_said: share of the requests to draw that name the style.
    """
    picture = {"type": "image", "image": image}
    article = with_article(name)
    wish = f"{article} in {style} style" if share("chat style", name, style) < style_said else article

    def said(pair: tuple[str, str]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        question, answer = pair
        if is_plural(name):
            question = question.replace("is it", "are they")
            answer = answer.replace("This is", "These are").replace("It is", "They are")
        return [_text(question)], [_text(answer.format(article, style=style))]

    found = []
    for number in range(wordings):

        def chosen(choices: Sequence[Any], purpose: str, turn: int = number) -> Any:
            return choices[(int(share(purpose, name, style) * len(choices)) + turn) % len(choices)]

        request = chosen(DRAW, "draw").format(wish)
        again = chosen(DRAW, "draw first").format(article)  # style unsaid: the question after it tells
        question, answer = said(chosen(DESCRIBE, "describe"))
        found += [
            _chat([_text(request)], [picture]),
            _chat([picture, *question], answer),
            _chat([_text(again)], [picture], *said(chosen(FOLLOW_UP, "follow up"))),
        ]
    return found


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _chat(*turns: list[dict[str, str]]) -> dict[str, Any]:
    """`turns` of user and assistant, by turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]}
