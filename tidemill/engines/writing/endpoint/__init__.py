"""Models that write behind an address: any server that speaks OpenAI's protocol, as vLLM, SGLang and llama.cpp do."""

from tidemill.engines.writing.endpoint.writer import EndpointWriter

__all__ = ["EndpointWriter"]
