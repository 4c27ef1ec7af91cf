"""One engine, tried in a process of its own: a library that ends the process must not end its examiner's.

`python -m tidemill.diagnosis.probe torch` prints what it finds as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from tidemill.errors import first_line


def torch() -> dict[str, Any]:
    import torch as library

    from tidemill.engines.devices import resolve_device, resolve_dtype
    from tidemill.engines.rates import kept_rates, measure_rates

    product = library.ones(8, 8) @ library.ones(8, 8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        device = resolve_device("auto")
    # As `resolve_dtype` would, but nothing is kept: an examination changes nothing.
    rates = kept_rates() or measure_rates()
    by_products = "bfloat16" if rates.pays("bfloat16") else "float32"
    gpus = [library.cuda.get_device_properties(index) for index in range(library.cuda.device_count())]
    return {
        "version": library.__version__,
        "computes": float(product.sum()) == 512.0,
        "built_for": library.version.cuda,
        "dtype": by_products if device.type == "cpu" else resolve_dtype("auto", device),
        "products": rates.to_json(),
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
        "said": [str(warning.message).strip().splitlines()[0] for warning in said],
    }


def openvino() -> dict[str, Any]:
    import openvino as library

    core = library.Core()
    return {
        "version": library.__version__.partition("-")[0],
        "computes": "CPU" in core.available_devices,
        "device": core.get_property("CPU", "FULL_DEVICE_NAME"),
        **_int8(),
    }


def _int8() -> dict[str, str]:
    """Whether it pays; why not, where it cannot be measured, which is nothing against float32."""
    from tidemill.engines.contest.gain import kept_gain, measure_gain

    try:
        # An examination changes nothing, so what it measures is not kept.
        return {"int8": str(kept_gain() or measure_gain())}
    except Exception as e:  # noqa: BLE001 — OpenVINO raises RuntimeError for whatever it is
        return {"int8_fails": f"could not be measured: {first_line(e)}"}


if __name__ == "__main__":
    print(json.dumps({"torch": torch, "openvino": openvino}[sys.argv[1]]()))  # noqa: T201
