"""The model as a service: requests from many people at once, answered by one engine. Nothing here knows HTTP.

    service = Service(model, Settings())
    service.start()
    job = await service.draw("a red apple", seed=0, previews=3)
    async for index, piece in job: …            Preview, Preview, Preview, Picture, Finish

The engine batches; this adds a thread that steps it, a door (`limits`), threads that read and make pixels, and an end.
Both the API and the page stand on it. It and `job` are all that knows of `generate`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakSet

from PIL import Image

from liquid_mm.device import end_helpers
from liquid_mm.errors import UserError
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.serve import chance
from liquid_mm.serve.errors import Broke, Stopping, TimedOut
from liquid_mm.serve.images import Pictures
from liquid_mm.serve.job import TOO_LONG, Job, Picture
from liquid_mm.serve.limits import Admission, check_text, check_tokens
from liquid_mm.serve.logs import logger
from liquid_mm.serve.metrics import Metrics
from liquid_mm.serve.settings import Settings

DRAWING = SamplingConfig(0.99, 4096, 0.96, guidance_scale=7.0)
"""How codes are sampled unless a request says otherwise, as in `LiquidModel.generate_images`; the guidance is that
which suits the model, where its checkpoint says so."""

WRITING = SamplingConfig(0.7, None, 0.9)
"""How text is, as in `LiquidModel.generate_text`."""


class Service:
    """Answers requests with one model.

    Args:
        model: it; only this service steps its engine.
        settings: limits.
        name: what clients call the model.

    Attributes:
        drawing: how codes are sampled unless a request says otherwise.
        since: when it was made, in seconds since 1970.
        broken: what the engine failed with, if it did.
        on_drain: called when it is told to stop.
    """

    def __init__(self, model: LiquidModel, settings: Settings, name: str = "liquid") -> None:
        self.model, self.settings, self.name = model, settings, name
        self.since = int(time.time())
        self.drawing = dataclasses.replace(DRAWING, guidance_scale=model.checkpoint.guidance_scale)
        self.metrics = Metrics()
        self.pictures = Pictures(settings.max_image_pixels, settings.max_body_bytes, settings.image_hosts)
        self._admission = Admission(settings.max_queue, settings.max_per_key)
        self.metrics.watch(self._admission, model.engine.max_batch)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pixels")
        self._engine_thread = threading.Thread(target=self._step, name="engine", daemon=True)
        self._end = threading.Event()
        self._jobs: WeakSet[Job] = WeakSet()
        self._listing = threading.Lock()  # the engine's thread lists jobs while the event loop adds some
        self._warm = self._draining = False
        self.on_drain: list[Callable[[], None]] = []
        self.broken: Exception | None = None

    @property
    def ready(self) -> bool:
        """Whether it takes requests: warmed, whole, and not told to stop."""
        return self._warm and not self._draining and self.broken is None

    @property
    def running(self) -> int:
        """Replies under way, those that wait among them."""
        return self._admission.running + self._admission.waiting

    def start(self) -> None:
        """Warm the model up, by drawing, reading and writing once, and begin to answer."""
        (picture,) = self.model.generate_images(["a"], seed=0)
        self.model.generate_text("", [picture.image], max_new_tokens=2, seed=0)
        end_helpers()  # from now on the engine's thread computes
        self._engine_thread.start()
        self._warm = True

    def drain(self) -> None:
        """Finish what runs and take nothing new."""
        self._draining = True
        for tell in self.on_drain:
            tell()

    def stop(self) -> None:
        """End, whatever still runs."""
        self.drain()
        for job in list(self._jobs):
            job.close()
            job.fail(Stopping("the server has stopped."))
        self._end.set()
        if self._engine_thread.is_alive():
            self._engine_thread.join()
        self._threads.shutdown(cancel_futures=True)

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function that computes or waits in a thread."""

        def run() -> Any:
            try:
                return function(*arguments)
            finally:
                end_helpers()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def draw(
        self,
        prompt: str,
        *,
        n: int = 1,
        size: tuple[int, int] | None = None,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
        previews: int = 0,
        key: str | None = None,
    ) -> Job:
        """Pictures of a description, of which the i-th has `seed` + i; see `LiquidModel.generate_images`.

        Raises:
            UserError: a value is outside its range, or the picture exceeds the context.
            Refused: the server is full or stopping.
        """
        check_text(prompt, self.settings.max_prompt_characters)
        self._check_size(size)
        make = partial(self.model.prompting.image, prompt, sampling=sampling or self.drawing, size=size)
        return await self._submit(make, n, seed, key, previews=previews)

    async def edit(
        self,
        read: Callable[[], tuple[Image.Image, Image.Image]],
        prompt: str,
        *,
        n: int = 1,
        size: tuple[int, int] | None = None,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
        previews: int = 0,
        key: str | None = None,
    ) -> Job:
        """Pictures that agree with a picture where a mask is white; see `LiquidModel.edit_image` and `draw`.

        `read` gives both, in a thread and once the request has been let in.
        """
        check_text(prompt, self.settings.max_prompt_characters)
        self._check_size(size)

        def make(first: int) -> Request:
            picture, keep = read()
            return self.model.prompting.edit(picture, prompt, keep, first, sampling or self.drawing, size)

        return await self._submit(make, n, seed, key, previews=previews)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        n: int = 1,
        max_tokens: int = 512,
        max_images: int = 4,
        seed: int | None = None,
        stop: Sequence[str] = (),
        writing: SamplingConfig = WRITING,
        drawing: SamplingConfig | None = None,
        previews: int = 0,
        key: str | None = None,
    ) -> Job:
        """Replies in a conversation, of text alone with `max_images=0`; see `LiquidModel.chat`.

        Messages are those of `generate.messages`, all with lists of parts; a picture may also be a URL or a `Picture`.
        One message that holds one picture and no words asks for its caption.
        """
        check_tokens(max_tokens, self.settings.max_output_tokens)
        parts = [part for message in messages for part in message["content"]]
        check_text(
            "".join(part["text"] for part in parts if part["type"] == "text"), self.settings.max_prompt_characters
        )
        if sum(part["type"] == "image" for part in parts) > self.settings.max_images:
            raise UserError(f"the conversation holds more than {self.settings.max_images} images.")

        def make(seed: int) -> Request:
            conversation = [{**m, "content": [self._read(part) for part in m["content"]]} for m in messages]
            if len(conversation) == 1 and [part["type"] for part in parts] == ["image"]:
                caption = self.model.prompting.text_record("", [conversation[0]["content"][0]["image"]])
                return self.model.prompting.text(caption, seed, writing, max_tokens)
            record = self.model.prompting.to_chat(conversation)
            if max_images:
                return self.model.prompting.chat(record, seed, writing, drawing or self.drawing, max_tokens, max_images)
            return self.model.prompting.text(record, seed, writing, max_tokens)

        return await self._submit(make, n, seed, key, stop, previews)

    async def write(
        self,
        prompt: str,
        *,
        n: int = 1,
        max_tokens: int = 256,
        seed: int | None = None,
        stop: Sequence[str] = (),
        writing: SamplingConfig = WRITING,
        key: str | None = None,
    ) -> Job:
        """Continuations of a text."""
        check_tokens(max_tokens, self.settings.max_output_tokens)
        check_text(prompt, self.settings.max_prompt_characters)

        def make(seed: int) -> Request:
            return self.model.prompting.text(self.model.prompting.text_record(prompt, ()), seed, writing, max_tokens)

        return await self._submit(make, n, seed, key, stop)

    async def _submit(
        self,
        make: Callable[[int], Request],
        n: int,
        seed: int | None,
        key: str | None,
        stop: Sequence[str] = (),
        previews: int = 0,
    ) -> Job:
        """Let a request in, make its prompt, and hand it to the engine; `make` runs in a thread, given a seed."""
        if not self.ready:
            raise Stopping("the server is not ready: it is starting or stopping.")
        if not 1 <= n <= self.settings.max_choices:
            raise UserError(f"n is {n}: it must be from 1 to {self.settings.max_choices}.")
        first = chance.some_seed() if seed is None else seed
        place = self._admission.admit(n, key)
        try:
            began = time.monotonic()
            request = await asyncio.wait_for(self.work(make, first), self.settings.deadline)
            if self.settings.log_prompts:
                logger.info("prompt", extra={"prompt": self.model.checkpoint.tokenizer.decode(request.prompt)})
            job = Job(
                self.model,
                [dataclasses.replace(request, seed=first + i) for i in range(n)],
                place,
                self.work,
                self.metrics,
                stop,
                previews,
                self.settings.deadline,
                time.monotonic() - began,
            )
        except asyncio.TimeoutError:
            place.leave()
            raise TimedOut(TOO_LONG.format(self.settings.deadline)) from None
        except BaseException:
            place.leave()
            raise
        with self._listing:
            self._jobs.add(job)
        if self.broken:
            job.fail(Broke())
        return job

    def _read(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        match part.get("image"):
            case str(url):
                return {"type": "image", "image": self.pictures.from_url(url)}
            case Picture(image=image, codes=codes):
                return {"type": "image", "image": GeneratedImage(image, codes, "", 0)}
        return part

    def _check_size(self, size: tuple[int, int] | None) -> None:
        # Before anything of that size is made.
        rows, columns = self.model.vocabulary.grid(size or self.model.vocabulary.resolution)
        limit = self.settings.max_output_tokens
        if rows * columns > limit:
            raise UserError(f"a picture of that size has {rows * columns} codes: at most {limit} are allowed.")

    def _step(self) -> None:
        """The engine's thread: advance whatever runs, until told to end."""
        engine = self.model.engine
        while not self._end.is_set():
            if not engine.wait(0.1):
                continue
            try:
                engine.step()
            except Exception as error:
                # The engine deals with what goes wrong in requests and on the device; this is a bug, and its state
                # cannot be trusted. Whoever watches over the process sees it at /health/live and starts another.
                logger.critical("the engine failed", exc_info=error)
                self.broken = error
                with self._listing:
                    jobs = list(self._jobs)
                for job in jobs:
                    job.fail(Broke())
                return
