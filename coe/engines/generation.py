"""Sequences that generate together, one token each per step.

Pure computation on one thread: what comes in and goes out of the event loop is decided in
`local`. Rows join between steps and leave when they finish, so a short answer does not wait
for a long one. Completion tokens are counted as vLLM counts them: all that were generated,
the end token and those of a stop string among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coe.engines.detokenizer import Detokenizer
from coe.engines.kv_cache import PaddedCache
from coe.engines.loading import LoadedModel
from coe.engines.room import answer_room
from coe.engines.sampling import generator_for, pick
from coe.engines.stopping import StopScanner
from coe.errors import CoeError, UpstreamError
from coe.types import Delta, FinishReason, GenerationRequest, Usage

if TYPE_CHECKING:
    import torch


class Row:
    """One request on its way through a batch."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self.is_cancelled = False
        """Set from any thread; the row leaves at the next step."""


class _Sequence:
    """What a row has generated so far."""

    def __init__(self, row: Row, model: LoadedModel) -> None:
        """Raises `RequestError` if the model cannot take the request."""
        params = row.request.params
        self.row = row
        self.params = params
        self.prompt_ids = model.encode(row.request.messages)
        self.last_id = -1
        self.is_finished = False
        self.generator = generator_for(params)
        self._n_generated = 0
        self._room = answer_room(model.expert, len(self.prompt_ids), params, model.context_tokens)
        self._end_ids = model.end_ids
        self._detokenizer = Detokenizer(model.decode)
        self._stops = StopScanner(params.stop)

    def push(self, token_id: int) -> list[Delta]:
        """Takes the next token; the deltas it makes certain, the last one if it ends the row."""
        self.last_id = token_id
        self._n_generated += 1
        if token_id in self._end_ids:
            return self._finish("", "stop")
        text = self._stops.push(self._detokenizer.push(token_id))
        if self._stops.stopped:
            return self._finish(text, "stop")
        if self._n_generated == self._room:
            return self._finish(text, "length")
        return [Delta(text=text)] if text else []

    def _finish(self, text: str, reason: FinishReason) -> list[Delta]:
        self.is_finished = True
        if not self._stops.stopped:
            text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
        reason = "stop" if self._stops.stopped else reason
        usage = Usage(len(self.prompt_ids), self._n_generated)
        end = Delta(finish_reason=reason, usage=usage)
        return [Delta(text=text), end] if text else [end]


Emission = tuple[Row, Delta | CoeError | None]
"""What a step did for one row. An error or a finish reason means that the row has left; None
that it left because it was cancelled."""


class Batch:
    """The rows of one model that generate together. Not for use by two threads at once."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._sequences: list[_Sequence] = []
        self._cache = PaddedCache(model.network)

    @property
    def rows(self) -> list[Row]:
        return [sequence.row for sequence in self._sequences]

    def step(self, joining: Sequence[Row]) -> list[Emission]:
        """One token more for every row, the joining ones included."""
        import torch

        with torch.inference_mode():
            emissions = self._dismiss_cancelled()
            newcomers = self._encode(joining, emissions)
            if not (self._sequences or newcomers):
                return emissions
            logits = self._forward(newcomers)
            picked = pick(
                logits,
                [sequence.params for sequence in self._sequences],
                [sequence.generator for sequence in self._sequences],
            )
            for sequence, token_id in zip(self._sequences, picked, strict=True):
                emissions += [(sequence.row, delta) for delta in sequence.push(token_id)]
            self._keep([not sequence.is_finished for sequence in self._sequences])
        return emissions

    def _dismiss_cancelled(self) -> list[Emission]:
        # Read once: another thread may set the flag while this runs.
        stays = [not sequence.row.is_cancelled for sequence in self._sequences]
        gone: list[Emission] = [
            (sequence.row, None)
            for sequence, stay in zip(self._sequences, stays, strict=True)
            if not stay
        ]
        self._keep(stays)
        return gone

    def _encode(self, joining: Sequence[Row], emissions: list[Emission]) -> list[_Sequence]:
        newcomers: list[_Sequence] = []
        for row in joining:
            try:
                newcomers.append(_Sequence(row, self._model))
            except CoeError as error:
                emissions.append((row, error))
            except Exception as error:  # noqa: BLE001 - templates and tokenizers raise what they like
                problem = f"cannot read this prompt: {error}"
                emissions.append((row, UpstreamError(self._model.expert.id, problem)))
        return newcomers

    def _forward(self, newcomers: list[_Sequence]) -> torch.Tensor:
        """Logits of all rows; the newcomers become rows, after those that were there."""
        import torch

        logits: list[torch.Tensor] = []
        if self._sequences:
            logits.append(self._cache.decode([s.last_id for s in self._sequences]))
        if newcomers:
            fresh = PaddedCache(self._model.network)
            logits.append(fresh.prefill([sequence.prompt_ids for sequence in newcomers]))
            if self._sequences:
                self._cache.join(fresh)
            else:
                self._cache = fresh
            self._sequences += newcomers
        return torch.cat(logits)

    def _keep(self, stays: Sequence[bool]) -> None:
        if all(stays):
            return
        rows = [index for index, stay in enumerate(stays) if stay]
        self._sequences = [self._sequences[index] for index in rows]
        if rows:
            self._cache.keep(rows)
        else:
            self._cache = PaddedCache(self._model.network)
