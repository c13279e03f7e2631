"""Embeddings that came with recorded data, as the encoder that stands in for their maker."""

from __future__ import annotations

from coe.encoders import RecordedEncoder
from coe.errors import DatasetError
from coe.outcomes import FloatArray, OutcomeTable


def recorded_encoder(*tables: OutcomeTable) -> RecordedEncoder:
    """Knows every text of the tables: those to fit on and those to judge on, and no other.

    Raises `DatasetError` unless all tables carry vectors of one encoder.
    """
    names = {str(table.vectors_name) for table in tables}
    if len(names) != 1:
        raise DatasetError(
            f"vectors of several encoders cannot be mixed: {', '.join(sorted(names))}"
        )
    rows: dict[str, FloatArray] = {}
    for table in tables:
        if table.vectors is None:
            raise DatasetError("no vectors were recorded with this table; name an encoder")
        rows |= zip((query.text for query in table.queries), table.vectors, strict=True)
    return RecordedEncoder(names.pop(), rows)
