"""Writes texts, of which new ones may come before the others have ended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peml.data import TaskBatch
from peml.data.batching import Collator
from peml.models import TaskModel
from peml.models.families.decoding import are_unusable
from peml.models.open_batch import OpenBatch, can_join
from peml.serving.service.work import Text


class Writer:
    """The texts that a model is writing.

    A decoder writes one token of each text at a time. Models whose texts can't join a batch
    (encoder-decoders, and layers that keep something else than keys and values) write those that
    came together to their end.
    """

    def __init__(self, base: TaskModel) -> None:
        self._base = base
        self._joins = can_join(base)
        self.clear()

    def clear(self) -> None:
        """Gives up all texts."""
        self._batch = OpenBatch(self._base)
        self._texts: list[Text] = []
        self._last: list[int] = []

    def write(self, new: Sequence[Text]) -> list[tuple[Text, bool]]:
        """Writes on.

        Returns:
            The texts that have ended, and whether their logits were finite.
        """
        return self._advance(new) if self._joins else self._finish(new)

    def _advance(self, new: Sequence[Text]) -> list[tuple[Text, bool]]:
        logits = [self._batch.step(self._last)] if self._texts else []
        if new:
            logits.append(self._batch.join(self._collate(new)))
        if not logits:
            return []
        texts, rows = [*self._texts, *new], torch.cat(logits)
        tokens, unusable = rows.argmax(1).tolist(), are_unusable(rows).tolist()
        for text, token, bad in zip(texts, tokens, unusable, strict=True):
            if not (text.done or bad):
                text.see(token)
        left = [n for n, text in enumerate(texts) if not (text.done or unusable[n])]
        if len(left) < len(texts):
            self._batch.keep(left)
        self._texts, self._last = [texts[n] for n in left], [tokens[n] for n in left]
        ended = sorted({*range(len(texts))} - {*left})
        return [(texts[n], not unusable[n]) for n in ended]

    def _finish(self, texts: Sequence[Text]) -> list[tuple[Text, bool]]:
        if not texts:
            return []

        def follow(new: torch.Tensor) -> list[bool]:
            for text, token in zip(texts, new[:, -1].tolist(), strict=True):
                if not text.done:
                    text.see(token)
            return [text.done for text in texts]

        limit = max(text.limit for text in texts)
        batch = self._collate(texts)
        written = self._base.generate(batch, max_new_tokens=limit, follow=follow)
        return [(text, each is not None) for text, each in zip(texts, written, strict=True)]

    def _collate(self, texts: Sequence[Text]) -> TaskBatch:
        decoder = not self._base.backbone.config.is_encoder_decoder
        collate = Collator(self._base.family.tokenizer.pad_token_id, left=decoder)
        columns: dict[str, list[Any]] = {
            "input_ids": [[text.ids] for text in texts],
            "token_type_ids": [[] for _ in texts],
            "labels": [[] for _ in texts],
            "targets": [[1.0] for _ in texts],
        }
        batch = collate(columns, [text.task_id for text in texts], np.arange(len(texts)))
        return batch.to(self._base.device)
