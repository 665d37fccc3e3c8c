"""The tabs in which the model is talked to: Understand and Chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import gradio as gr

from liquid_mm.errors import UserError
from liquid_mm.generate.stream import TextPiece
from liquid_mm.serve.job import Picture, Preview
from liquid_mm.serve.page.handlers import PREVIEWS, opened, pieces_of, tells_mistakes, visitor, written
from liquid_mm.serve.service import Service

QUESTIONS = ("What is in this picture?", "Which colours does it have?")


def understand_tab(service: Service) -> None:
    """A picture is dropped and asked about."""

    @tells_mistakes
    async def understand(file: str | None, question: str, http: gr.Request) -> AsyncGenerator[Any, None]:
        if file is None:
            raise UserError("drop a picture first.")
        content = [{"type": "image", "image": await opened(service, file)}]
        content += [{"type": "text", "text": question}] if question.strip() else []
        told = [{"role": "user", "content": content}]
        job = await service.chat(told, max_tokens=_most_tokens(service), max_images=0, key=visitor(http))
        answer = ""
        async with aclosing(pieces_of(job)) as pieces:
            async for _, piece in pieces:
                answer += piece.text if isinstance(piece, TextPiece) else ""
                yield answer.strip()

    with gr.Row():
        picture = gr.Image(
            label="A picture",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height="22em",
            elem_classes="picture",
            buttons=["fullscreen"],
        )
        with gr.Column():
            question = gr.Textbox(label="Question", info="Empty: a description")
            button = gr.Button("Ask", variant="primary")
            answer = gr.Textbox(label="Answer", lines=4)
            gr.Examples(list(service.model.checkpoint.taught.questions or QUESTIONS), question)
    gr.on([button.click, question.submit], understand, [picture, question], answer, api_name="understand")


def chat_tab(service: Service) -> None:
    """One conversation, with pictures in both directions."""

    @tells_mistakes
    async def say(
        message: dict[str, Any], told: list[dict[str, Any]], shown: list[dict[str, Any]], http: gr.Request
    ) -> AsyncGenerator[Any, None]:
        files, text = message.get("files") or [], message.get("text") or ""
        content = [{"type": "image", "image": await opened(service, file)} for file in files]
        content += [{"type": "text", "text": text}] if text.strip() else []
        if not content:
            raise UserError("say something, or add a picture.")
        told = [*told, {"role": "user", "content": content}]
        shown = [*shown, {"role": "user", "content": [*({"path": file} for file in files), *([text] if text else [])]}]
        job = await service.chat(told, max_tokens=_most_tokens(service), key=visitor(http), previews=PREVIEWS)
        yield empty, told, shown
        parts: list[dict[str, Any]] = []
        seen: list[str | dict[str, str]] = []
        async with aclosing(pieces_of(job)) as pieces:
            async for _, piece in pieces:
                growing: list[dict[str, str]] = []
                match piece:
                    case TextPiece(more) if parts and parts[-1]["type"] == "text":
                        parts[-1]["text"] += more
                        seen[-1] = parts[-1]["text"]
                    case TextPiece(more):
                        parts.append({"type": "text", "text": more})
                        seen.append(more)
                    case Picture(image=image):
                        parts.append({"type": "image", "image": piece})
                        seen.append({"path": await written(service, image)})
                    case Preview(image=image):
                        growing = [{"path": await written(service, image)}]
                # Not the box again: somebody may be typing in it.
                yield gr.skip(), told, [*shown, {"role": "assistant", "content": [*seen, *growing] or ["…"]}]
        told = [*told, {"role": "assistant", "content": parts}]
        yield gr.skip(), told, [*shown, {"role": "assistant", "content": seen or ["(no reply)"]}]

    empty = {"text": "", "files": []}
    told = gr.State([])
    chat = gr.Chatbot(
        label="Conversation",
        height="60vh",
        allow_tags=False,
        feedback_options=None,
        buttons=["copy", "copy_all"],
        elem_classes="conversation",
    )
    box = gr.MultimodalTextbox(
        label="Say something", placeholder="Draw a red apple.", file_types=["image"], file_count="multiple"
    )
    box.submit(say, [box, told, chat], [box, told, chat], api_name="chat")
    chat.clear(list, None, told, api_visibility="private")


def _most_tokens(service: Service) -> int:
    return min(512, service.settings.max_output_tokens)
