from __future__ import annotations

import numpy as np
import pytest

from coe.encoders import RecordedEncoder
from coe.errors import DatasetError

RECORDED = RecordedEncoder(
    "study", {"a": np.array([3.0, 4.0]), "b": np.array([0.0, 2.0]), "none": np.array([0.0, 0.0])}
)


def test_recorded_encoder_serves_unit_rows_in_the_order_asked() -> None:
    rows = RECORDED.encode(["b", "a", "b", "none"])
    expected = np.array([[0, 1], [0.6, 0.8], [0, 1], [0, 0]])
    np.testing.assert_allclose(rows, expected, rtol=1e-6)
    assert rows.dtype == np.float32
    assert (RECORDED.name, RECORDED.dim) == ("study", 2)
    assert RECORDED.encode([]).shape == (0, 2)


def test_recorded_encoder_refuses_an_unknown_text() -> None:
    with pytest.raises(DatasetError, match="'study' has no recorded embedding of 'c'"):
        RECORDED.encode(["a", "c"])


def test_recorded_encoder_refuses_vectors_that_do_not_belong_together() -> None:
    with pytest.raises(DatasetError, match="several lengths"):
        RecordedEncoder("mixed", {"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(DatasetError, match="no vector"):
        RecordedEncoder("empty", {})
