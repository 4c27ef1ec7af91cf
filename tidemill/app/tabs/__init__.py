"""The tabs of the app, a module each; and Gradio, with its telemetry switched off before anything imports it.

Whatever Gradio sends, it decides when it is imported or when a page is built, so no option of a page is early enough.
"""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_SSR_MODE"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_MCP_SERVER"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
