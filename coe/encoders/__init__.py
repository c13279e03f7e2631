"""Encoders: what a query looks like to a router, as a unit vector.

The default is a static table that ships with the package; every other encoder is a choice in
`experts.yaml`. Nothing heavy is imported until an encoder that needs it is built.
"""

from coe.encoders.endpoint import EndpointEncoder
from coe.encoders.onnx import OnnxEncoder
from coe.encoders.recorded import RecordedEncoder
from coe.encoders.static import StaticEncoder, default_encoder
from coe.encoders.transformer import SentenceTransformerEncoder

__all__ = [
    "EndpointEncoder",
    "OnnxEncoder",
    "RecordedEncoder",
    "SentenceTransformerEncoder",
    "StaticEncoder",
    "default_encoder",
]
