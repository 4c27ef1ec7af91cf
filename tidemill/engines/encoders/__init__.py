"""BERT and its relatives, computed with less work: the same weights, the same answers.

`parts` says of what a model is made and what its head reads, `encoder` computes that, and `rewriting` keeps a model
as it is unless the encoder answers a probe alike.
"""

from tidemill.engines.encoders.encoder import Encoder, VariableAttention
from tidemill.engines.encoders.rewriting import rewrite

__all__ = ["Encoder", "VariableAttention", "rewrite"]
