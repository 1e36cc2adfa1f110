"""From log-likelihoods to scores of options."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peml.errors import DataError
from peml.evaluation.scoring.requests import Request
from peml.models import Spelling
from peml.tasks import Normalisation


def normalise(
    likelihoods: Tensor,
    requests: Sequence[Request],
    kind: Normalisation,
    spelling: Spelling,
    unconditional: Tensor | None = None,
) -> Tensor:
    """Scores of options, (requests,).

    Args:
        likelihoods: Log-likelihoods, (requests,).
        requests: The options.
        kind: What they are divided by, or what is subtracted from them.
        spelling: Decodes the options for ``bytes``: UTF-8 bytes without the end of text and
            without spaces around.
        unconditional: For ``pmi``: log-likelihoods of the options after the unconditional prompt.

    Raises:
        DataError: With ``bytes``, an option has no text.
    """
    if kind == "none":
        return likelihoods
    if kind == "pmi":
        if unconditional is None:
            raise AssertionError("pmi needs the options' likelihoods after another prompt")
        return likelihoods - unconditional
    if kind == "tokens":
        # Without a context, the first token is not predicted.
        sizes = [len(r.option) - (not r.context) for r in requests]
    else:
        sizes = [_bytes(request, spelling) for request in requests]
    return likelihoods / torch.tensor(sizes).to(likelihoods)


def _bytes(request: Request, spelling: Spelling) -> int:
    text = spelling.read(request.option).strip()
    if not text:
        raise DataError(
            f"the option with the tokens {list(request.option)} has no text, so its score can't "
            "be divided by its bytes",
            allowed="options with a text, for evaluation.scoring.normalisation: bytes",
            action="correct the option, or choose another normalisation",
        )
    return len(text.encode("utf-8"))
