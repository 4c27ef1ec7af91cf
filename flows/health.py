"""Whether Prefect is there, of a version that works, and answers: for `tidemill doctor`."""

from __future__ import annotations

from tidemill.diagnosis.finding import Finding
from tidemill.diagnosis.packages import installed

ANSWER_SECONDS = 4.0
SECONDS = 15.0
"""Of which most goes to importing Prefect."""
WAY_OUT = "Start it with `tidemill up` or `prefect server start`, or unset PREFECT_API_URL"


def prefect(*, needed: bool) -> list[Finding]:
    """What is installed, and what a configured server says.

    Without a server `tidemill run` starts a temporary one, and `--direct` needs none.
    """
    from tidemill.errors import ConfigError
    from tidemill.flows.client import check_server, reaching, server_url

    version = installed("prefect")
    if version is None:
        said = "not installed: schedules need it, and `tidemill run` without --direct"
        return [Finding("prefect", "prefect", "fails", said, "pip install 'prefect>=3.8.8,<3.10'", needed)]
    findings = [Finding("prefect", "prefect", "works", version)]
    url = server_url()
    if url is None:
        said = "none is configured: `tidemill run` starts a temporary one, schedules need one"
        remedy = "tidemill up, then export PREFECT_API_URL=http://127.0.0.1:4200/api"
        return [*findings, Finding("prefect", "server", "absent" if not needed else "fails", said, remedy, needed)]
    try:
        with reaching(url):
            check_server(url, ANSWER_SECONDS, way_out="")
    except ConfigError as e:
        said, _, _ = str(e).strip().partition("\n")
        return [*findings, Finding("prefect", "server", "fails", said.rstrip("."), WAY_OUT, needed)]
    return [*findings, Finding("prefect", "server", "works", f"{url} answers")]
