"""The command that answers over the network: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from liquid_mm.cli.app import app
from liquid_mm.cli.options import Device, Dtype


@app.command()
def serve(
    checkpoint: Annotated[str, typer.Argument(help="A Liquid checkpoint folder, or 'demo'.")] = "demo",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="LIQUID_API_KEY", help="Let in only who has it; may be repeated. Better in the variable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What clients call the model; by default its folder's name.")] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="A page for people at /.")] = True,
    max_batch: Annotated[int, typer.Option(help="Sequences computed at once; a guided picture takes two.")] = 16,
    max_queue: Annotated[int, typer.Option(help="Replies that may wait; more are refused.")] = 64,
    deadline: Annotated[float, typer.Option(help="Seconds a request may take.")] = 300.0,
    grace: Annotated[int, typer.Option(help="Seconds to finish in when told to stop.")] = 30,
    image_host: Annotated[
        list[str] | None, typer.Option(help="Fetch pictures by address from this host; may be repeated.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write what people ask into the log.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    quantization: Annotated[str | None, typer.Option(help="int8 or int4 weights.")] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Deploy on Ray Serve: here, or where RAY_ADDRESS says; without the page.")
    ] = False,
    replicas: Annotated[int, typer.Option(min=1, help="Models of a cluster; with --max-replicas, at least.")] = 2,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Let the number of a cluster's models follow the load, up to this.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="Of each model of a cluster; by default 1 if the cluster has any.")
    ] = None,
) -> None:
    """Serve a model: OpenAI's API at /v1, its documentation at /docs, a page at /."""
    from liquid_mm.errors import UserError
    from liquid_mm.generate.model import load

    try:
        from liquid_mm.serve.app import create_app, run
        from liquid_mm.serve.settings import Settings
    except ImportError as error:
        raise UserError(f'serving needs {error.name}: run `pip install "liquid-mm[serve]"`.') from error
    if not all(api_key or ()):
        raise UserError("an API key is empty: give every --api-key a value, or none to let everybody in.")
    settings = Settings(
        api_keys=tuple(api_key or ()),
        max_queue=max_queue,
        deadline=deadline,
        grace=grace,
        image_hosts=tuple(image_host or ()),
        log_prompts=log_prompts,
    )
    if cluster:
        try:
            from liquid_mm.serve import cluster as deployed
        except ImportError as error:
            raise UserError(f'a cluster needs {error.name}: run `pip install "liquid-mm[serve,cluster]"`.') from error
        options = deployed.ClusterOptions(
            checkpoint=checkpoint,
            name=name,
            replicas=replicas,
            max_replicas=max_replicas,
            gpus=gpus,
            max_batch=max_batch,
            device=device,
            dtype=dtype,
            quantization=quantization,
            settings=settings,
        )
        return deployed.run(options, host, port)
    model = load(checkpoint, device=device, dtype=dtype, quantization=quantization, max_batch=max_batch)
    run(create_app(model, settings, name=name or Path(checkpoint).resolve().name, page=page), host, port)
