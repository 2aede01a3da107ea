"""OpenAI's /v1/embeddings: a vector for each text, as numbers or as base64 of 32-bit floats."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Any, Literal

from pydantic import Field

from slmops.core.errors import UsageError
from slmops.serve.request import Embedded
from slmops.serve.wire._http import Body
from slmops.serve.wire._openai_body import Model, Tokens

MOST_TEXTS = 256


class Embedding(Body):
    model: Model
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_TEXTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str | None, Field(max_length=512)] = None

    def texts(self) -> list[str]:
        """Raises UsageError."""
        found = [self.input] if isinstance(self.input, str) else [one for one in self.input if isinstance(one, str)]
        if not found:
            cure = "LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False"
            raise UsageError("input: texts, not tokens; each model has tokens of its own", cure)
        if not all(found):
            raise UsageError("input: a text is not empty")
        return found


def written(body: Embedding, found: Embedded) -> dict[str, Any]:
    """The response."""
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(one) if body.encoding_format == "base64" else one}
        for index, one in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.prompt_tokens, "total_tokens": found.prompt_tokens}
    return {"object": "list", "data": data, "model": body.model, "usage": usage}


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
