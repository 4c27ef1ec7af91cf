"""Where a page goes: a file or an address, at which nobody ever finds half of one."""

from __future__ import annotations

from pathlib import Path

from tidemill.errors import ConfigError
from tidemill.places import is_s3, published


def write_page(page: str, address: str, option: str, *, with_folder: bool = False) -> None:
    """Put a page in the place of what is there, and make its folder if asked to; `option` is named where it cannot be.

    Raises:
        ConfigError: there is no such folder or bucket, or it may not be used.
        SourceUnavailable: what is behind the address does not answer.
    """
    try:
        if "://" in address:
            _write_elsewhere(page, address, option)
            return
        if with_folder:
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        with published(Path(address)) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as e:
        raise ConfigError(
            f"The report cannot be written to {address}: {e.strerror or e}. Correct {option}, or make its folder."
        ) from e


def _write_elsewhere(page: str, address: str, option: str) -> None:
    from tidemill.storage.addresses import open_address, translated

    file_system, path = open_address(address, option, ConfigError)
    kind = {"ContentType": "text/html; charset=utf-8"} if is_s3(address) else {}
    with translated(address, option, ConfigError), file_system.open(path, "wb", **kind) as file:
        file.write(page.encode())
