"""JSON that every reader takes: NaN and the infinities, which JSON does not have, become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(content: Any) -> str:
    """Indented JSON.

    >>> json_text({"ratio": float("inf"), "bytes": 2})
    '{\\n  "ratio": null,\\n  "bytes": 2\\n}'
    """
    return json.dumps(_finite(content), indent=2, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, (list, tuple)) else content
