"""An S3 server for the tests: moto's, in a process of its own, which checks who asks."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.processes import PATIENCE_SECONDS, wait_until

EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@dataclass(frozen=True)
class S3Server:
    url: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it, under the names that AWS gives these facts."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def forbid(self, objects: str | None) -> None:
        """Let nobody put objects whose names match, as BUCKET/KEY with wildcards; None allows all again."""
        iam = _client("iam", self)
        if objects is None:
            iam.delete_user_policy(UserName="tidemill", PolicyName="forbidden")
            return
        statement = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{objects}"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="tidemill", PolicyName="forbidden", PolicyDocument=policy)

    def create_bucket(self) -> Bucket:
        bucket = Bucket(self, f"bucket-{secrets.token_hex(6)}")
        bucket.client.create_bucket(Bucket=bucket.name)
        return bucket


@dataclass(frozen=True)
class Bucket:
    """One bucket, seen by Amazon's own client: whatever the engine remembers of it does not show here."""

    server: S3Server
    name: str

    @cached_property
    def client(self) -> Any:
        return _client("s3", self.server)

    def address(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def put(self, key: str, body: bytes | Path) -> None:
        content = body if isinstance(body, bytes) else body.read_bytes()
        self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]


@contextmanager
def running_server(log: Path) -> Iterator[S3Server]:
    [port] = free_ports(1)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output
        )
    try:
        yield _with_a_user(S3Server(f"http://127.0.0.1:{port}", "nobody", "nothing"))
    finally:
        process.terminate()
        process.wait()


def _with_a_user(server: S3Server) -> S3Server:
    """The server with a user who may do everything; from then on it refuses all others."""
    wait_until(lambda: is_up(f"{server.url}/moto-api/"))
    iam = _client("iam", server)
    iam.create_user(UserName="tidemill")
    iam.put_user_policy(UserName="tidemill", PolicyName="everything", PolicyDocument=json.dumps(EVERYTHING))
    key = iam.create_access_key(UserName="tidemill")["AccessKey"]
    httpx.post(f"{server.url}/moto-api/reset-auth", content=b"0").raise_for_status()
    return S3Server(server.url, key["AccessKeyId"], key["SecretAccessKey"])


def _client(service: str, server: S3Server) -> Any:
    return boto3.client(
        service,
        endpoint_url=server.url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
    )


def free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens at now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def is_up(url: str) -> bool:
    """Whether somebody answers there, and well."""
    try:
        # Without HTTPS there are no certificates to load, which takes longer than the request.
        return httpx.get(url, timeout=PATIENCE_SECONDS, verify=False).is_success
    except httpx.TransportError:
        return False
