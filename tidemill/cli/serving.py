"""`tidemill serve`: predictions over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli.common import Overrides, PipelineFiles, command, load, say
from tidemill.cli.help import SHARING


@command(
    SHARING,
    "tidemill serve reviews.toml",
    "tidemill serve reviews.toml emails.toml --port 9000 --reuse",
    doing="loading the model",
)
def serve(
    pipelines: PipelineFiles,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen; other than loopback, for others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65_535, help="0 is any that is free.")] = 8321,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name by which clients ask; may be repeated."),
    ] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Answer texts that the table has from the table.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="MS", min=0, max=1_000, help="Most that a row waits for company.")
    ] = 2.0,
    queue: Annotated[
        int, typer.Option("--queue", metavar="ROWS", min=1, help="Rows that may wait; beyond, 429.")
    ] = 2_048,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=0.001, max=3_600, help="Of a request; beyond, 504.")
    ] = 30.0,
    max_rows: Annotated[int, typer.Option("--max-rows", metavar="ROWS", min=1, help="Of a request.")] = 1_000,
    max_body: Annotated[int, typer.Option("--max-body", metavar="BYTES", min=1, help="Of a request; beyond, 413.")] = 4
    * 2**20,
    max_connections: Annotated[
        int, typer.Option("--max-connections", metavar="N", min=16, help="Open at one time.")
    ] = 1_000,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0, max=3_600, help="For what is asked, on SIGTERM.")
    ] = 30.0,
    overrides: Overrides = None,
) -> None:
    """Answer over HTTP by the versions that are promoted, and follow promotions. The token is $TIDEMILL_TOKEN, or made
    up and printed.
    """
    from tidemill.errors import ConfigError
    from tidemill.serving import running
    from tidemill.serving.answering.limits import Limits

    running.require_packages()
    limits = Limits(
        queue_rows=queue,
        call_rows=max_rows,
        body_bytes=max_body,
        wait_seconds=wait / 1_000,
        deadline_seconds=deadline,
        connections=max_connections,
        stop_seconds=grace,
    )
    token, is_made_up = running.token_of_the_environment()
    loaded = [load(pipeline, overrides) for pipeline in pipelines]
    names = [pipeline.name for pipeline in loaded]
    if len(set(names)) < len(names):
        raise ConfigError(f"Two pipelines have the same name among {', '.join(names)}. Give each a name of its own.")
    listening = running.listen(host, port)
    address = running.address_of(listening)

    def tell(served: dict[str, Any]) -> None:
        for name, facts in served.items():
            say(f"{name}: version {facts['version']}, {facts['task']} by {facts['engine']} in {facts['dtype']}.")
        say(f"Token: {token}" if is_made_up else f"The token is that of {running.TOKEN}.")
        say(f"Serving at {address}. What can be asked: {address}/docs")

    running.share_cpus()
    running.Service(loaded, limits, token=token, hosts=allow_host or (), reuse=reuse).run(listening, tell)
