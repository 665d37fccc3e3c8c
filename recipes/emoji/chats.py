"""Two short conversations per picture: one asks for it, the other asks what it is.

user: Draw a red apple in 3D style.     assistant: [picture]
user: [picture] What is this?           assistant: This is a red apple.
"""

from __future__ import annotations

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
STYLE_SAID = 0.5  # of the requests to draw


def chats(name: str, style: str, image: str, wordings: int = 1, style_said: float = STYLE_SAID) -> list[dict[str, Any]]:
    """Conversations about one picture, two per wording; which wordings they have depends on name and style alone.

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
    found = []
    for number in range(wordings):
        request = DRAW[(int(share("draw", name, style) * len(DRAW)) + number) % len(DRAW)].format(wish)
        question, answer = DESCRIBE[(int(share("describe", name, style) * len(DESCRIBE)) + number) % len(DESCRIBE)]
        if is_plural(name):
            answer = answer.replace("This is", "These are").replace("It is", "They are")
        found += [
            _chat([_text(request)], [picture]),
            _chat([picture, _text(question)], [_text(answer.format(article, style=style))]),
        ]
    return found


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _chat(user: list[dict[str, str]], assistant: list[dict[str, str]]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}
