"""Once, before the workers start: the bucket, and a work pool for each kind of machine.

    python docker/setup.py BUCKET POOL...

What is there already stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from s3fs import S3FileSystem


def make_bucket(name: str) -> None:
    file_system = S3FileSystem(use_listings_cache=False)
    if not file_system.exists(name):
        file_system.mkdir(name)


def make_pools(names: Sequence[str]) -> None:
    template = ProcessWorker.get_default_base_job_template()
    # -P: a folder `datasets` where the worker stands is a user's data, and not the library.
    template["variables"]["properties"]["command"]["default"] = "python -P -m prefect.engine"
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
            except ObjectAlreadyExists:
                continue


if __name__ == "__main__":
    make_bucket(sys.argv[1])
    make_pools(sys.argv[2:])
