"""The commands for what runs by itself: a local stack, what is deployed there, and a way to stop it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidemill.cli.common import AsJson, Overrides, PipelineFile, PipelineFiles, command, load, print_facts
from tidemill.cli.help import SCHEDULES


@command(
    SCHEDULES,
    "tidemill deploy reviews.toml emails.toml",
    "tidemill deploy reviews.toml --remove",
    doing="asking the Prefect server",
)
def deploy(
    pipelines: PipelineFiles,
    remove: Annotated[bool, typer.Option("--remove", help="Take away what was deployed of these pipelines.")] = False,
    run_now: Annotated[
        bool, typer.Option("--run-now", help="Start the chain once, as soon as it is deployed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace deployments of another pipeline file or lake.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Register schedules with the Prefect server: the chain, and each stage by itself. Again, only what changed."""
    loaded = [(load(file, overrides), Path(file)) for file in pipelines]
    if remove and run_now:
        from tidemill.errors import ConfigError

        raise ConfigError("--remove takes away what --run-now would start. Give one of them.")
    from tidemill.flows.client import configured_server

    with configured_server() as client:
        from tidemill.flows import deploy as deploying

        if remove:
            changes = deploying.remove(client, [pipeline.name for pipeline, _ in loaded])
        else:
            changes = deploying.deploy(client, loaded, yes=yes)
        if run_now:
            changes += [deploying.start_now(client, pipeline) for pipeline, _ in loaded]
    print_facts([vars(change) for change in changes], _changes, as_json)


@command(SCHEDULES, "tidemill up", "tidemill up --pool gpu --limit 1", doing="starting Prefect")
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port on 127.0.0.1.")] = 4200,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A work pool to make and work for; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most flow runs at one time in a pool.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Start Prefect on this machine: a server, and one worker a pool. Running it again says that it is up."""
    from tidemill.flows import stack
    from tidemill.places import home

    pools = pool or ["tidemill"]
    if found := stack.running(home()):
        _refuse_other_stack(found, port, pools)
        print_facts(_stack_facts(found, "running"), _stack, as_json)
        return
    started = stack.start(home(), port=port, pools=pools, flow_runs=limit)
    print_facts(_stack_facts(started, "started"), _stack, as_json)


@command(SCHEDULES, "tidemill down", doing="stopping Prefect")
def down(as_json: AsJson = False) -> None:
    """Stop what `up` started, flow runs included; they go on when it is started again."""
    from tidemill.flows import stack
    from tidemill.places import home

    stopped = stack.stop(home())
    print_facts({"stopped": stopped}, lambda facts: "Stopped." if facts["stopped"] else "Nothing is up.", as_json)


@command(SCHEDULES, "tidemill cancel reviews.toml", doing="asking the Prefect server")
def cancel(
    pipeline: PipelineFile,
    backfill: Annotated[str | None, typer.Option(metavar="ID", help="Only this backfill, and its flow runs.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Stop a pipeline's runs, wherever they are, and give up its open backfills. What was committed stays."""
    loaded = load(pipeline, overrides)
    from tidemill.flows.cancel import cancel_pipeline

    print_facts(cancel_pipeline(loaded, backfill), _cancelled, as_json)


def _refuse_other_stack(found: Any, port: int, pools: list[str]) -> None:
    from tidemill.errors import ConfigError

    if port not in (found.port, 4200) or not set(pools) <= set(found.pools):
        raise ConfigError(
            f"A stack is up on port {found.port} with the pools {', '.join(found.pools)}. Stop it first: tidemill down."
        )


def _stack_facts(found: Any, state: str) -> dict[str, Any]:
    from tidemill.flows.password import given_password, password_file
    from tidemill.places import home

    return {
        "state": state,
        "ui": found.ui,
        "api": found.url,
        "pools": found.pools,
        "pid": found.pid,
        "logs": str((home() / "logs").absolute()),
        "password_file": None if given_password() else str(password_file(home()).absolute()),
    }


def _stack(facts: dict[str, Any]) -> str:
    password = facts["password_file"]
    return (
        f"{'Up' if facts['state'] == 'started' else 'Up already'}: {facts['ui']}, a worker for each of: "
        f"{', '.join(facts['pools'])}. Logs are in {facts['logs']}.\n"
        f"The UI asks for the password, which is {f'in {password}' if password else 'what the environment has'}.\n"
        f"export PREFECT_API_URL={facts['api']}"
    )


def _changes(changes: list[dict[str, Any]]) -> str:
    if not changes:
        return "Nothing of these pipelines is deployed."
    width = max((len(one["name"]) for one in changes if one["when"]), default=0)
    return "\n".join(
        f"{one['change']:<10} {one['object']:<11} {one['name']:<{width}}  {_when(one)}".rstrip() for one in changes
    )


def _when(change: dict[str, Any]) -> str:
    due, when = change["next_due"], change["when"] or change["url"] or ""
    return f"due {due:%Y-%m-%d %H:%M} {due.tzinfo}" if due else when[:1].lower() + when[1:]


def _cancelled(facts: dict[str, Any]) -> str:
    lines = [f"asked to stop: {one['name']} ({one['how']})" for one in facts["runs"]]
    lines += [f"given up: backfill {one}" for one in facts["backfills"]]
    return "\n".join(lines or ["Nothing of this pipeline is running, due or open."])
